"""Which architectures an adapter belongs to, from its module names alone or with shapes; and what a LoRA must carry."""

from __future__ import annotations

import pytest

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
    """Many models read the same encoders, and name them alike."""
    sd3s = tuple(known(name) for name in ("sd3-medium", "sd3.5-medium", "sd3.5-large"))
    first = _adapter(SD1, "te1")
    assert identify_adapter(first, first) == (SD1, *sd3s, known("flux-dev"))
    second = _adapter(SDXL, "te2")
    assert identify_adapter(second, second) == (SDXL, known("sdxl-refiner"), *sd3s)
    first = _adapter(SDXL, "te1")
    assert identify_adapter(first, first) == (SD1, SDXL, *sd3s, known("flux-dev"))
    names = ["lora_te_encoder_block_0_layer_0_SelfAttention_q"]
    assert identify_adapter(names) == (known("chroma"),), "OneTrainer's"


def _joined(name: str, *, style: str = "native") -> dict[str, tuple[int, int]]:
    """An adapter for a transformer's linear layers: fused ones have one name for all their rows."""
    prefix, fused = ("lora_unet_", True) if style == "native" else ("transformer.", False)
    reading = reference(known(name), style=None if fused else "diffusers")
    start = "model.diffusion_model." if fused else "transformer."
    paths = {
        key.removeprefix(start).removesuffix(".weight"): (shape[0], shape[1])
        for key, shape in reading.items()
        if key.startswith(start) and key.endswith(".weight") and len(shape) == 2
    }
    return {prefix + (path.replace(".", "_") if fused else path): shape for path, shape in paths.items()}


@pytest.mark.parametrize("style", ["native", "diffusers"])
def test_adapters_of_transformers(style: str) -> None:
    newest = ("flux2-klein-4b", "flux2-klein-9b", "flux2-dev", "qwen-image", "wan-1.3b", "wan-5b", "wan-14b")
    others = ("ernie-image", "krea-2", "auraflow")
    for name in ("sd3-medium", "sd3.5-medium", "sd3.5-large", "flux-dev", "chroma", *newest, *others):
        shapes = _joined(name, style=style)
        assert known(name) in identify_adapter(shapes)
        assert identify_adapter(shapes, shapes) == (known(name),)
    shapes = _joined("flux-schnell", style=style)
    assert identify_adapter(shapes, shapes) == (known("flux-dev"),), "all that schnell has, dev has too"


def _kohya(name: str, encoder: str) -> dict[str, tuple[int, int]]:
    """What sd-scripts trains of a newer transformer: the blocks, and the layers of the language model."""
    shapes: dict[str, tuple[int, int]] = {}
    for key, shape in reference(known(name)).items():
        path = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
        if len(shape) == 2 and path.startswith(("blocks.", "layers.")) and "modulation" not in path:
            shapes[f"lora_unet_{path.replace('.', '_')}"] = (shape[0], shape[1])
        elif len(shape) == 2 and path.startswith(f"text_encoders.{encoder}.transformer.model.layers."):
            path = path.partition(".model.")[2]
            shapes[f"lora_te_{path.replace('.', '_')}"] = (shape[0], shape[1])
    return shapes


@pytest.mark.parametrize(("name", "encoder"), [("anima", "qwen3_06b"), ("lumina-2", "gemma2_2b")])
def test_a_language_model_beside_a_transformer_or_alone(name: str, encoder: str) -> None:
    shapes = _kohya(name, encoder)
    assert len(shapes) == {"anima": 28 * 10 + 28 * 7, "lumina-2": 26 * 5 + 26 * 7}[name]
    assert identify_adapter(shapes, shapes) == identify_adapter(shapes) == (known(name),)
    alone = {it: shape for it, shape in shapes.items() if it.startswith("lora_te_")}
    assert identify_adapter(alone, alone) == (known(name),)


def test_widths_tell_the_sizes_of_stable_diffusion_3_apart() -> None:
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    medium, newer, large = (known(name) for name in ("sd3-medium", "sd3.5-medium", "sd3.5-large"))
    assert identify_adapter([name]) == (medium, newer, large)
    assert identify_adapter([name], {name: (3 * 1536, 1536)}) == (medium, newer)
    assert identify_adapter([name], {name: (3 * 2432, 2432)}) == (large,)


def test_shapes_decide_between_names_that_both_know() -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert identify_adapter([name]) == (SD1, known("sd2"), SDXL, known("sdxl-refiner"))
    assert identify_adapter([name], {name: (640, 1024)}) == (known("sd2"),)
    assert identify_adapter([name], {name: (640, 768)}) == (SD1,)
    assert identify_adapter([name], {name: (640, 2048)}) == (SDXL,)


def test_one_foreign_name_does_not_matter_and_only_foreign_names_are_nobodys() -> None:
    assert identify_adapter([*_adapter(SDXL, "unet"), "lora_unet_no_such_module"]) == (SDXL,)
    assert identify_adapter(["lora_unet_blocks_0_self_attn_qq", "diffusion_model.layers.0.attention.qkvv"]) == ()
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
