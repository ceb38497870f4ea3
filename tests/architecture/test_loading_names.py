"""Which names are said to load: those, and no others, that the programs' own rules take, onto the module they mean.

The rules are those that the tests of what is written state anew. What they leave out (names of diffusers for transformers, which
each program lists by hand) is written out here by example.
"""

from __future__ import annotations

import pytest

from lib_transfer.architecture import Architecture, modules, reference
from lib_transfer.architecture.spellings import not_loaded
from tests.architecture import test_forge, test_neo
from tests.architecture.known import BOTH, known
from tests.architecture.test_hosts import _diffusers_unet, _place, a1111, forge


def _loads(architecture: Architecture, name: str) -> bool:
    return not not_loaded(architecture, [name])


@BOTH
def test_of_stable_diffusion_a1111_and_forge_load_them(architecture: Architecture) -> None:
    keys = list(reference(architecture))
    hosts = (a1111(keys), forge(keys, _diffusers_unet(architecture, keys)))
    for module in modules(architecture, reference(architecture)):
        # A1111 passes over the projection of the second encoder without harm.
        if module.output is None or module.output.text == "lora_te2_text_projection":
            continue
        for name, rows in module.names:
            if rows is None and ("." not in name):
                both = all(accepts(name) == _place(module) for accepts in hosts)
                assert _loads(architecture, name) == both, name
            else:
                assert not _loads(architecture, name), name


@test_neo.EACH
def test_of_the_newer_transformers_generic_names_load(architecture: Architecture) -> None:
    keys = list(reference(architecture))
    comfy, neo = test_neo.comfyui(keys), test_neo.forge_neo(keys)
    for module in modules(architecture, reference(architecture)):
        if module.output is None:
            continue
        for name, rows in module.names:
            both = comfy.get(name) == module.weight == neo.get(test_neo._renamed(name))
            if both and rows == module.rows:
                assert _loads(architecture, name), name


@test_forge.EACH
def test_of_flux_and_its_like_generic_names_load(architecture: Architecture) -> None:
    accepts = test_forge.forge([test_forge._in_forge(key) for key in reference(architecture)])
    for module in modules(architecture, reference(architecture)):
        if module.output is None:
            continue
        for name, rows in module.names:
            if name.startswith(("lora_unet_", "diffusion_model.")) and rows == module.rows:
                known_there = accepts(name) == test_forge._in_forge(module.weight)
                assert _loads(architecture, name) or not known_there, name


EXAMPLES = {
    "flux-dev": (
        ("transformer.single_transformer_blocks.0.attn.to_q", "lora_transformer_transformer_blocks_0_attn_to_out_0"),
        ("single_transformer_blocks.0.attn.to_q", "base_model.model.transformer_blocks.0.attn.to_q",
         "double_blocks.0.img_attn.qkv", "transformer.transformer_blocks.0.attn.to_qkv"),
    ),
    "chroma": (("diffusion_model.single_blocks.0.linear1",), ("transformer.single_transformer_blocks.0.attn.to_q",)),
    "anima": (
        ("diffusion_model.blocks.51.mlp.layer1", "lora_unet_llm_adapter_blocks_0_mlp_0", "lora_te_layers_0_mlp_up_proj"),
        ("net.blocks.0.mlp.layer1", "blocks.0.mlp.layer1", "transformer.transformer_blocks.0.attn1.to_q",
         "lycoris_blocks_0_mlp_layer1", "lora_unet__blocks_0_mlp_layer1", "text_encoders.qwen3_06b.model.layers.0.mlp.up_proj"),
    ),
    "z-image": (
        ("diffusion_model.layers.0.attention.to_q", "transformer.layers.0.attention.to_out.0", "layers.0.attention.to_v"),
        ("lora_unet_layers_0_attention_to_q", "transformer.layers.0.attention.qkv", "lora_transformer_layers_0_attention_to_q",
         "diffusion_model.transformer.layers.0.attention.to_q", "layers.29.attention.to.k"),
    ),
    "lumina-2": (("diffusion_model.layers.0.attention.qkv",), ("transformer.layers.0.attn.to_q",)),
    "qwen-image": (
        ("transformer.transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_q",
         "lycoris_transformer_blocks_0_attn_to_q"),
        ("lora_transformer_transformer_blocks_0_attn_to_q", "base_model.model.transformer_blocks.0.attn.to_q"),
    ),
    "flux2-klein-4b": (
        ("transformer.transformer_blocks.0.attn.to_q", "diffusion_model.single_blocks.0.linear1"),
        ("transformer.double_stream_modulation_img.linear", "diffusion_model.transformer_blocks.0.attn.to_q",
         "double_blocks.0.img_attn.qkv", "base_model.model.transformer_blocks.0.attn.to_q"),
    ),
    "wan-14b": (
        ("diffusion_model.blocks.0.self_attn.q", "lora_unet_blocks_0_self_attn_q"),
        ("blocks.0.self_attn.q", "transformer.blocks.0.attn1.to_q", "lora_unet_blocks_0_attn1_to_q"),
    ),
    "krea-2": (
        ("transformer.transformer_blocks.0.attn.to_q", "lycoris_transformer_blocks_0_attn_to_q"),
        ("lora_unet_transformer_blocks_0_attn_to_q",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("base", EXAMPLES)
def test_examples_of_names_of_diffusers(base: str) -> None:
    load, do_not = EXAMPLES[base]
    assert [name for name in load if not _loads(known(base), name)] == []
    assert [name for name in do_not if _loads(known(base), name)] == []


def test_a_family_is_named_once_with_its_first_module() -> None:
    names = [f"net.blocks.{number}.mlp.layer1" for number in (1, 0)]
    [sentence] = not_loaded(known("anima"), [*names, "lora_unet_blocks_2_mlp_layer1"])
    assert sentence == (
        '2 of its 3 modules have the model\'s own paths behind "net.", which are not known to load in both Forge Neo and '
        "ComfyUI: net.blocks.0.mlp.layer1."
    )


def test_unusual_spellings_and_names_that_are_unknown() -> None:
    spelled, unknown = not_loaded(known("anima"), ["lora_unet__blocks_0_mlp_layer1", "lora_unet_blocks_0_mlp_layer9"])
    assert "names in an unusual spelling" in spelled and "lora_unet__blocks_0_mlp_layer1" in spelled
    assert "names that no module of Anima has" in unknown and "lora_unet_blocks_0_mlp_layer9" in unknown
