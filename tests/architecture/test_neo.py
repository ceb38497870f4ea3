"""Every output name of the newer transformers is loaded by Forge Neo and by ComfyUI, onto the right weight.

What both accept is stated here anew, from reading their mapping code, on nothing but the keys of their own models.
"""

from __future__ import annotations

import re

import pytest

from lib_transfer.architecture import Architecture, modules, reference
from tests.architecture.known import known

NAMES = (
    *("anima", "cosmos-predict2-2b", "z-image", "lumina-2"),
    *("flux2-klein-4b", "flux2-klein-9b", "flux2-dev", "qwen-image"),
    *("wan-1.3b", "wan-5b", "wan-14b", "wan-i2v-14b", "ernie-image", "krea-2", "auraflow"),
)
EACH = pytest.mark.parametrize("architecture", [known(name) for name in NAMES], ids=NAMES)
QWEN = "text_encoders.qwen3_06b.transformer.model."
CORE = "model.diffusion_model."


def comfyui(keys: list[str]) -> dict[str, str]:
    """What ComfyUI applies an adapter module to; an only text encoder has kohya's names behind the model level.

    Flux' norms have their scale under the name weight, once they are loaded; what is no weight has a dotted name alone.
    """
    found = {}
    flux = any(".img_attn.norm." in key for key in keys)
    for key in keys:
        path = re.sub(r"\.scale$", "", key) if flux else key
        path = path.removesuffix(".weight")
        if key.startswith(CORE):
            inside = path.removeprefix(CORE)
            found |= {f"diffusion_model.{inside}": key}
            found |= {f"lora_unet_{inside.replace('.', '_')}": key} if path != key else {}
        elif key.startswith(QWEN) and path != key:
            found[f"lora_te_{path.removeprefix(QWEN).replace('.', '_')}"] = key
    return found


def forge_neo(keys: list[str]) -> dict[str, str]:
    """What Forge Neo does. It keeps Anima's adapter with the text encoder, and renames adapters' names of it."""
    found = {}
    for name, key in comfyui(keys).items():
        if key.startswith(f"{CORE}llm_adapter."):
            found[re.sub(r"^lora_unet_(?=llm_adapter_)", "lora_te_", name)] = key
        elif not key.startswith(QWEN) or key.startswith(f"{QWEN}layers."):
            found[name] = key
    return found


def _renamed(name: str) -> str:
    """What Forge Neo makes of a name in a file."""
    return re.sub(r"^lora_unet_(?=llm_adapter_)", "lora_te_", name)


@EACH
def test_both_load_every_output_name_onto_its_module(architecture: Architecture) -> None:
    """A name of a fused weight changes all of it: what is written under it must have the module's rows where it has them."""
    keys = list(reference(architecture))
    comfy, neo = comfyui(keys), forge_neo(keys)
    for module in modules(architecture, reference(architecture)):
        if module.output is not None:
            assert comfy[module.output.text] == module.weight
            assert neo[_renamed(module.output.text)] == module.weight
            assert module.output.rows == module.rows and module.output in module.names


@EACH
def test_one_family_of_names_is_written(architecture: Architecture) -> None:
    """Forge Neo looks for the blocks of a LoRA in the family that most of its names have."""
    written = [module for module in modules(architecture, reference(architecture)) if module.output is not None]
    # Parameters that are no weights have no kohya name.
    outputs = [
        it.output for it in written if it.output is not None and not re.search(r"\.(scale|modulation)$", it.weight)
    ]
    assert {re.match(r"lora_(?:unet|te)_", output.text)[0] for output in outputs} <= {"lora_unet_", "lora_te_"}  # type: ignore[index]
    assert not any("." in output.text for output in outputs)


@EACH
def test_what_has_no_output_name_is_loaded_by_one_of_them_at_most(architecture: Architecture) -> None:
    keys = list(reference(architecture))
    neo = set(forge_neo(keys).values())
    # Kohya's names of Gemma are loaded by ComfyUI alone.
    gemma = {module.weight for module in modules(architecture, reference(architecture)) if "gemma" in module.name}
    silent = [module for module in modules(architecture, reference(architecture)) if module.output is None]
    assert not [module.name for module in silent if module.weight in neo]
    expected = {f"{QWEN}embed_tokens.weight", f"{QWEN}norm.weight"} if architecture.id == "anima" else set()
    assert {module.weight for module in silent} == expected | gemma


def test_some_by_hand() -> None:
    found = {
        m.name.removeprefix(CORE): m.output_name for name in NAMES for m in modules(known(name), reference(known(name)))
    }
    assert found["blocks.27.cross_attn.output_proj"] == "lora_unet_blocks_27_cross_attn_output_proj"
    assert found["llm_adapter.blocks.5.mlp.2"] == "lora_unet_llm_adapter_blocks_5_mlp_2"
    assert found[f"{QWEN}layers.3.mlp.gate_proj"] == "lora_te_layers_3_mlp_gate_proj"
    assert found["layers.25.attention.qkv.k"] == "lora_unet_layers_25_attention_qkv"
    assert found["noise_refiner.1.feed_forward.w3"] == "lora_unet_noise_refiner_1_feed_forward_w3"
    assert found["double_blocks.7.txt_attn.qkv.v"] == "lora_unet_double_blocks_7_txt_attn_qkv"
    assert found["single_blocks.47.linear1.mlp"] == "lora_unet_single_blocks_47_linear1"
    assert found["single_blocks.0.norm.key_norm"] == "lora_unet_single_blocks_0_norm_key_norm"
    assert found["transformer_blocks.59.attn.to_out.0"] == "lora_unet_transformer_blocks_59_attn_to_out_0"
    assert found["blocks.39.cross_attn.k_img"] == "lora_unet_blocks_39_cross_attn_k_img"
    assert found["blocks.39.modulation"] == "diffusion_model.blocks.39.modulation"
    assert found["blocks.0.prenorm"] == "diffusion_model.blocks.0.prenorm.scale"
    assert found["txtfusion.refiner_blocks.1.mlp.gate"] == "lora_unet_txtfusion_refiner_blocks_1_mlp_gate"
    assert found["layers.35.self_attention.to_q"] == "lora_unet_layers_35_self_attention_to_q"
    assert found["double_layers.3.attn.w2q"] == "lora_unet_double_layers_3_attn_w2q"
