"""Which architectures an adapter belongs to, from its module names alone or with shapes; and what a LoRA must carry."""

from __future__ import annotations

from lib_transfer.architecture import Architecture, identify_adapter, modules, reference
from tests.architecture.known import BOTH, known

SD1, SDXL = known("sd1"), known("sdxl")


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
        assert architecture in identify_adapter(shapes)
        assert identify_adapter(list(shapes), shapes) == (architecture,)


@BOTH
def test_adapters_of_tiny_models(architecture: Architecture) -> None:
    shapes = _adapter(architecture, "te1", "unet", width=16)
    assert architecture in identify_adapter(shapes.keys(), shapes)


def test_text_encoders_alone() -> None:
    assert identify_adapter(_adapter(SD1, "te1"), _adapter(SD1, "te1")) == (SD1,)
    assert identify_adapter(_adapter(SDXL, "te2")) == (SDXL, known("sdxl-refiner"))
    first = _adapter(SDXL, "te1")
    assert identify_adapter(first, first) == (SD1, SDXL), "lora_te1_ names and shapes are those of both"


def test_shapes_decide_between_names_that_both_know() -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert identify_adapter([name]) == (SD1, known("sd2"), SDXL, known("sdxl-refiner"))
    assert identify_adapter([name], {name: (640, 1024)}) == (known("sd2"),)
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

    for name in ("sd1", "sd2", "sdxl", "ssd-1b", "vega"):
        metadata = known(name).metadata
        assert a1111(metadata) == forge(metadata) == known(name).card_version
    assert [known(name).base_model_version for name in ("sd1", "sd2", "sdxl")] == ["sd_v1", "sd_v2", "sdxl_base_v1-0"]
    assert SD1.metadata["modelspec.implementation"] == "diffusers"
    assert SDXL.metadata["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"


def test_a_relative_is_not_named_beside_the_architecture_it_stems_from() -> None:
    assert identify_adapter(_adapter(known("ssd-1b"), "unet")) == (SDXL,)
    assert identify_adapter(_adapter(known("koala-700m"), "unet")) == (known("koala-700m"), known("koala-1b"))
