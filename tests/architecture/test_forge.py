"""Every output name of Stable Diffusion 3, Flux and Chroma is loaded by Forge, onto the right weight; and none is left out.

What Forge accepts is stated here anew, from reading its mapping code, on nothing but the keys of its own models. A1111 1.9.4
has none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lib_transfer.architecture import Architecture, modules, reference
from tests.architecture.known import known

NAMES = ("sd3-medium", "sd3.5-medium", "sd3.5-large", "flux-dev", "flux-schnell", "chroma")
EACH = pytest.mark.parametrize("architecture", [known(name) for name in NAMES], ids=NAMES)

LEAVES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def _in_forge(key: str) -> str:
    """What Forge's own model calls the tensor of a single file."""
    return key.removeprefix("model.").removeprefix("text_encoders.")


def forge(keys: list[str]) -> Callable[[str], str | None]:
    """Which tensor Forge applies an adapter module to, by its name."""
    return {name: key for key in keys for name in _names(key)}.get


def _names(key: str) -> Iterator[str]:
    path = key.removesuffix(".weight")
    if key.startswith("diffusion_model."):
        # Of what is not called weight, the whole key is the only name.
        yield path
        if path != key:
            yield "lora_unet_" + path.removeprefix("diffusion_model.").replace(".", "_")
    elif key.startswith("t5xxl.transformer.") and path != key:
        for number in (1, 2, 3):
            yield f"lora_te{number}_" + path.removeprefix("t5xxl.transformer.").replace(".", "_")
    elif path.endswith(LEAVES):
        joined = path.partition(".transformer.")[2].replace(".", "_")
        for prefix in {"clip_l": ("lora_te_", "lora_te1_"), "clip_g": ("lora_te2_",)}[key.partition(".")[0]]:
            yield prefix + joined
    elif path.endswith(".transformer.text_projection"):
        yield {"clip_l": "lora_te1_text_projection", "clip_g": "lora_te2_text_projection"}[key.partition(".")[0]]


@EACH
def test_forge_loads_every_output_name_onto_its_module(architecture: Architecture) -> None:
    """A name of a fused weight changes all of it: what is written under it must have the module's rows where it has them."""
    accepts = forge([_in_forge(key) for key in reference(architecture)])
    for module in modules(architecture, reference(architecture)):
        if module.output is not None:
            assert module.output in module.names
            assert accepts(module.output.text) == _in_forge(module.weight), module.output
            assert module.output.rows == module.rows


@EACH
def test_modules_of_one_output_name_make_up_the_whole_weight(architecture: Architecture) -> None:
    tensors = reference(architecture)
    rows: dict[str, list[tuple[int, int]]] = {}
    sizes: dict[str, int] = {}
    for module in modules(architecture, tensors):
        if module.output is not None:
            rows.setdefault(module.output.text, []).extend(module.output.rows or ((0, module.shape[0]),))
            sizes[module.output.text] = tensors[module.weight][0]
    for name, parts in rows.items():
        ordered = sorted(parts)
        assert [first for first, _ in ordered] == [0, *(last for _, last in ordered[:-1])]
        assert ordered[-1][1] == sizes[name]


@EACH
def test_modules_without_an_output_name_have_none_that_forge_loads(architecture: Architecture) -> None:
    accepts = forge([_in_forge(key) for key in reference(architecture)])
    silent = [module for module in modules(architecture, reference(architecture)) if module.output is None]
    for module in silent:
        assert [name.text for name in module.names if accepts(name.text) is not None] == []
    assert {(m.position.part[:2], m.kind) for m in silent} <= {("te", "norm"), ("te", "embedding")}
    assert not any("t5xxl" in module.name for module in silent)


def test_some_by_hand() -> None:
    output = {m.name: m.output_name for m in modules(known("flux-dev"), reference(known("flux-dev")))}
    core = "model.diffusion_model."
    assert output[f"{core}double_blocks.0.txt_attn.qkv.v"] == "lora_unet_double_blocks_0_txt_attn_qkv"
    assert output[f"{core}single_blocks.37.linear1.mlp"] == "lora_unet_single_blocks_37_linear1"
    norm = "double_blocks.0.img_attn.norm.query_norm"
    assert output[core + norm] == f"diffusion_model.{norm}.scale"
    t5 = "text_encoders.t5xxl.transformer."
    assert output[f"{t5}encoder.block.0.layer.0.SelfAttention.q"] == "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    clip = "text_encoders.clip_l.transformer.text_model.encoder.layers.0."
    assert output[f"{clip}mlp.fc1"] == "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    assert output[f"{clip}layer_norm1"] is None
    output = {m.name: m.output_name for m in modules(known("sd3.5-medium"), reference(known("sd3.5-medium")))}
    assert output[f"{core}joint_blocks.12.x_block.attn2.qkv.k"] == "lora_unet_joint_blocks_12_x_block_attn2_qkv"
    assert output[f"{core}joint_blocks.0.context_block.attn.ln_q"] == "lora_unet_joint_blocks_0_context_block_attn_ln_q"
    assert output["text_encoders.clip_g.transformer.text_projection"] == "lora_te2_text_projection"
