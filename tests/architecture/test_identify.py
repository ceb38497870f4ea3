"""Which architectures an adapter belongs to, from its module names alone or with shapes; and what a LoRA must carry."""

from __future__ import annotations

import pytest

from lib_transfer.architecture import Architecture, architectures, identify_adapter, modules, reference

SD1, SDXL = architectures()
BOTH = pytest.mark.parametrize("architecture", architectures(), ids=lambda architecture: architecture.id)


def _adapter(architecture: Architecture, *parts: str, width: int | None = None) -> dict[str, tuple[int, int]]:
    return {
        module.output_name: module.matrix_shape
        for module in modules(architecture, reference(architecture, width=width))
        if module.output_name is not None and module.position.part in parts and module.kind in ("linear", "convolution")
    }


@BOTH
def test_full_and_unet_only_adapters(architecture: Architecture) -> None:
    for parts in (("unet",), ("te1", "te2", "unet")):
        shapes = _adapter(architecture, *parts)
        assert identify_adapter(shapes) == (architecture,)
        assert identify_adapter(list(shapes), shapes) == (architecture,)


@BOTH
def test_adapters_of_tiny_models(architecture: Architecture) -> None:
    shapes = _adapter(architecture, "te1", "unet", width=16)
    assert identify_adapter(shapes.keys(), shapes) == (architecture,)


def test_text_encoders_alone() -> None:
    assert identify_adapter(_adapter(SD1, "te1")) == (SD1,)
    assert identify_adapter(_adapter(SDXL, "te2")) == (SDXL,)
    first = _adapter(SDXL, "te1")
    assert identify_adapter(first, first) == (SD1, SDXL), "lora_te1_ names and shapes are those of both"


def test_shapes_decide_between_names_that_both_know() -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert identify_adapter([name]) == (SD1, SDXL)
    assert identify_adapter([name], {name: (640, 768)}) == (SD1,)
    assert identify_adapter([name], {name: (640, 2048)}) == (SDXL,)


def test_one_foreign_name_does_not_matter_and_only_foreign_names_are_nobodys() -> None:
    assert identify_adapter([*_adapter(SDXL, "unet"), "lora_unet_no_such_module"]) == (SDXL,)
    assert (
        identify_adapter(["lora_unet_double_blocks_0_img_attn_qkv", "lora_te2_encoder_block_0_layer_0_SelfAttention_q"])
        == ()
    )
    assert identify_adapter([]) == ()


def test_what_hosts_read_off_the_metadata() -> None:
    """Re-states the rules by which A1111 (first) and Forge (second) label a file."""

    def a1111(metadata: dict[str, str]) -> str:
        if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
            return "SDXL"
        return "SD2" if metadata.get("ss_v2") == "True" else "SD1"

    def forge(metadata: dict[str, str]) -> str:
        if metadata.get("modelspec.architecture") == "stable-diffusion-xl-v1-base/lora":
            return "SDXL"
        if metadata.get("ss_v2") == "True":
            return "SD2"
        return "SD1" if metadata.get("modelspec.architecture") == "stable-diffusion-v1/lora" else "Unknown"

    for architecture in architectures():
        assert a1111(architecture.metadata) == forge(architecture.metadata) == architecture.card_version
    assert [architecture.id for architecture in architectures()] == ["sd1", "sdxl"]
    assert [architecture.base_model_version for architecture in architectures()] == ["sd_v1", "sdxl_base_v1-0"]
    assert SD1.metadata["modelspec.implementation"] == "diffusers"
    assert SDXL.metadata["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"
