"""What an adapter is called: the true model, supported or not, by its names, its shapes and its metadata.

The names are those of real files (issues and key listings of the trainers' repositories), the sizes the models' own.
"""

from __future__ import annotations

import pytest

from lib_transfer.architecture import Architecture, identity, modules, reference
from tests.architecture.known import ALL

Shapes = dict[str, tuple[int, int]]


def _flux_2(width: int, double: int, single: int, *, leaves: tuple[str, ...] = ("qkv", "linear1", "linear2")) -> Shapes:
    shapes: Shapes = {}
    for number in range(double):
        for stream in ("img", "txt"):
            shapes[f"diffusion_model.double_blocks.{number}.{stream}_attn.qkv"] = (3 * width, width)
    for number in range(single):
        if "linear1" in leaves:
            shapes[f"diffusion_model.single_blocks.{number}.linear1"] = (9 * width, width)
        if "linear2" in leaves:
            shapes[f"diffusion_model.single_blocks.{number}.linear2"] = (width, 4 * width)
    return shapes


def _each(pattern: str, count: int, shape: tuple[int, int], *leaves: str) -> Shapes:
    return {pattern.format(n, leaf): shape for n in range(count) for leaf in leaves}


QKV = ("to_q", "to_k", "to_v")
ADDED = (*QKV, "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
SHARED = "PixArt or Sana or LTX-Video or CogVideoX"

UNSUPPORTED: list[tuple[str, Shapes, str]] = [
    (
        "Qwen-Image 2.1",
        _each("diffusion_model.transformer_blocks.{}.img_mlp.{}", 30, (9216, 3072), "gate_layer", "proj"),
        "",
    ),
    ("Lens", _each("diffusion_model.transformer_blocks.{}.img_mlp.{}", 30, (9216, 3072), "w1", "w2"), ""),
    ("Wan VACE", _each("diffusion_model.vace_blocks.{}.self_attn.{}", 8, (5120, 5120), "q", "k"), ""),
    ("Zeta-Chroma", _each("diffusion_model.layers.{}.attention.{}", 30, (3840, 3840), *QKV), "zeta_chroma"),
    ("Ming-Image", _each("diffusion_model.layers.{}.attention.{}", 30, (3840, 3840), *QKV), "ming_image"),
    ("OmniGen2", _each("transformer.layers.{}.attn.{}", 32, (2520, 2520), "to_q", "to_out.0"), ""),
    (
        "HunyuanVideo or HunyuanImage",
        _each("diffusion_model.double_blocks.{}.img_mlp.{}", 20, (12288, 3072), "fc1"),
        "",
    ),
    ("HunyuanVideo or HunyuanImage", _each("lora_unet_single_blocks_{}_{}", 40, (21504, 3072), "linear1"), ""),
    ("HiDream", _each("diffusion_model.double_stream_blocks.{}.block.attn1.{}", 16, (2560, 2560), *QKV), ""),
    ("Stable Cascade", _each("lora_prior_unet_down_blocks_{}_{}", 4, (2048, 2048), "0_attention_attn_out_proj"), ""),
    ("HunyuanVideo or HunyuanImage", _each("lora_unet_double_blocks_{}_{}", 20, (10752, 3584), "img_attn_qkv"), ""),
    ("HunyuanVideo or HunyuanImage", _each("transformer.double_blocks.{}.{}", 8, (3072, 3072), "img_attn_qkv.0"), ""),
    ("HunyuanVideo or Qwen-Image", _each("transformer.transformer_blocks.{}.attn.{}", 20, (3072, 3072), *ADDED), ""),
    ("Chroma Radiance", _each("diffusion_model.nerf_blocks.{}.{}", 4, (64, 64), "param_generator"), ""),
    (SHARED, _each("transformer.transformer_blocks.{}.attn1.{}", 28, (1152, 1152), *QKV), ""),
    (SHARED, _each("base_model.model.transformer_blocks.{}.{}", 28, (1152, 1152), "attn1.to_q", "attn2.to_q"), ""),
    (SHARED, _each("transformer.transformer_blocks.{}.{}", 28, (2048, 2048), "attn1.to_q", "attn2.to_k"), ""),
]


@pytest.mark.parametrize(("title", "shapes", "said"), UNSUPPORTED)
def test_a_model_that_is_not_supported_is_called_by_its_name(title: str, shapes: Shapes, said: str) -> None:
    found = identity(list(shapes), shapes, [said])
    assert found.unsupported == title and found.titles == (title,) and not found.architectures
    assert not found.doubt


KLEINS = ["flux2-klein-4b", "flux2-klein-9b", "flux2-dev"]
SUPPORTED: list[tuple[list[str], Shapes, str]] = [
    (["flux2-klein-4b"], _flux_2(3072, 5, 20), ""),
    (["flux2-klein-9b"], _flux_2(4096, 8, 24, leaves=()), ""),
    (["flux2-dev"], _flux_2(6144, 8, 48, leaves=("linear2",)), "flux_2_dev"),
    (KLEINS, _flux_2(8, 5, 20), ""),
    (["flux2-klein-9b"], _flux_2(8, 5, 20), "Flux.2-klein-9b/lora"),
    (["flux2-klein-4b"], _flux_2(3072, 5, 20, leaves=()), "flux2_klein_4b"),
    (["flux-dev", "flux2-klein-4b"], _flux_2(3072, 5, 20, leaves=()), ""),
    (["flux-dev"], _flux_2(3072, 5, 20, leaves=()), "flux1"),
    (
        ["flux2-klein-4b"],
        _each("transformer.single_transformer_blocks.{}.attn.{}", 20, (27648, 3072), "to_qkv_mlp_proj"),
        "",
    ),
    (["qwen-image"], _each("transformer.transformer_blocks.{}.attn.{}", 60, (3072, 3072), *ADDED), ""),
    (["qwen-image"], _each("transformer_blocks.{}.attn.{}", 30, (3072, 3072), *QKV), ""),
    (["qwen-image"], _each("lora_unet_transformer_blocks_{}_{}", 6, (18432, 3072), "img_mod_1", "txt_mod_1"), ""),
    (["qwen-image"], _each("transformer.transformer_blocks.{}.attn.{}", 19, (3072, 3072), *QKV), "qwen_image"),
    (["qwen-image"], _each("transformer.transformer_blocks.{}.attn.{}", 20, (3072, 3072), *ADDED), "qwen-image"),
    (["wan-1.3b"], _each("diffusion_model.blocks.{}.self_attn.{}", 30, (1536, 1536), "q", "k", "v", "o"), ""),
    (["wan-5b"], _each("diffusion_model.blocks.{}.ffn.{}", 30, (14336, 3072), "0"), ""),
    (["wan-14b"], _each("lora_unet_blocks_{}_cross_attn_{}", 40, (5120, 5120), "q", "k", "v", "o"), "wan2.1"),
    (["wan-14b"], _each("transformer.blocks.{}.attn1.{}", 40, (5120, 5120), *QKV), ""),
    (["wan-i2v-14b"], _each("lora_unet_blocks_{}_cross_attn_{}", 40, (5120, 5120), "q", "k_img", "v_img"), ""),
    (["krea-2"], _each("diffusion_model.blocks.{}.attn.{}", 28, (6144, 6144), "wq", "wo", "gate"), ""),
    (["ernie-image"], _each("transformer.layers.{}.self_attention.{}", 36, (4096, 4096), *QKV), ""),
    (["auraflow"], _each("transformer.joint_transformer_blocks.{}.attn.{}", 4, (3072, 3072), *QKV), "pony_v7"),
    (["auraflow"], _each("transformer.single_transformer_blocks.{}.attn.to_out.0", 32, (3072, 3072), ""), ""),
]


@pytest.mark.parametrize(("ids", "shapes", "said"), SUPPORTED)
def test_what_the_newest_models_are_told_by(ids: list[str], shapes: Shapes, said: str) -> None:
    """Names that no other has, numbers of blocks, sizes; and metadata, where these do not tell."""
    found = identity(list(shapes), shapes, [said])
    assert [it.id for it in found.architectures] == ids and not found.unsupported and not found.doubt


@pytest.mark.parametrize(
    ("said", "ids"),
    [
        ("flux_2_dev", ["flux2-dev"]),
        ("Flux.2-klein-4b", ["flux2-klein-4b"]),
        ("flux-2", KLEINS),
        ("wan2.2-ti2v-5b", ["wan-5b"]),
        ("wan_1.3b", ["wan-1.3b"]),
        ("wan2.1_14b", ["wan-14b"]),
    ],
)
def test_sizes_that_metadata_say(said: str, ids: list[str]) -> None:
    """Of an adapter for a tiny model, whose shapes are none's."""
    shapes = _flux_2(8, 5, 20) if "lux" in said else _each("diffusion_model.blocks.{}.ffn.{}", 30, (24, 8), "0")
    assert [it.id for it in identity(list(shapes), shapes, [said]).architectures] == ids


@ALL
def test_what_is_written_says_what_it_is_for(architecture: Architecture) -> None:
    """Names, sizes and metadata of an output are read as those of the architecture, or of the one that it stems from."""
    shapes = {
        module.output_name: module.matrix_shape
        for module in modules(architecture, reference(architecture))
        if module.output_name is not None and module.kind == "linear" and module.rows is None
    }
    said = [architecture.base_model_version, architecture.modelspec_architecture]
    found = identity(list(shapes), shapes, said)
    assert {it.family for it in found.architectures} == {architecture.family} and not found.unsupported


SDXL = _each("lora_unet_input_blocks_4_1_transformer_blocks_{}_{}", 2, (640, 640), *(f"attn1_{x}" for x in QKV))
CHROMA = {
    **_each("lora_transformer_transformer_blocks_{}_attn_{}", 19, (3072, 3072), *QKV, "add_q_proj"),
    **_each("lora_transformer_single_transformer_blocks_{}_attn_{}", 38, (3072, 3072), *QKV),
}
ANIMA = _each("lora_unet_blocks_{}_self_attn_{}_proj", 28, (2048, 2048), "q", "k", "output")
DEEP = _each("diffusion_model.blocks.{}.self_attn.{}_proj", 52, (2048, 2048), "q", "k", "output")
ANIMA_OF_DIFFUSERS = _each("transformer.transformer_blocks.{}.attn1.{}", 28, (2048, 2048), *QKV)
ANIMA_OF_DIFFUSERS |= _each("transformer.transformer_blocks.{}.attn2.{}", 28, (2048, 1024), "to_k", "to_v")
Z_IMAGE = _each("lora_unet_layers_{}_attention_{}", 30, (3840, 3840), *QKV)
LUMINA = _each("lora_unet_layers_{}_feed_forward_{}", 26, (9216, 2304), "w1", "w3")
SD3_LARGE = _each("transformer.transformer_blocks.{}.attn.{}", 38, (2432, 2432), *ADDED)


@pytest.mark.parametrize(
    ("shapes", "said", "ids"),
    [
        (SDXL, "", ["sdxl"]),
        (SDXL, "sdxl_", ["sdxl"]),
        (CHROMA, "", ["flux-dev"]),
        (CHROMA, "chroma/lora", ["chroma"]),
        (CHROMA, "flux-1-schnell/lora", ["flux-schnell"]),
        (CHROMA, "flux.1", ["flux-dev"]),
        (ANIMA, "", ["anima"]),
        (ANIMA, "anima-preview/lora", ["anima"]),
        (ANIMA, "cosmos_predict2", ["cosmos-predict2-2b"]),
        (ANIMA_OF_DIFFUSERS, "", ["anima"]),
        (DEEP, "", ["anima"]),
        (Z_IMAGE, "", ["z-image"]),
        (Z_IMAGE, "Z-Image/lora", ["z-image"]),
        (Z_IMAGE, "zimage", ["z-image"]),
        (LUMINA, "", ["lumina-2"]),
        (LUMINA, "lumina2", ["lumina-2"]),
        (SD3_LARGE, "", ["sd3.5-large"]),
        (SD3_LARGE, "stable-diffusion-3-5-large/lora", ["sd3.5-large"]),
    ],
)
def test_metadata_choose_between_what_fits_equally(shapes: Shapes, said: str, ids: list[str]) -> None:
    found = identity(list(shapes), shapes, [said])
    assert [it.id for it in found.architectures] == ids and not found.doubt and not found.unsupported


@pytest.mark.parametrize(
    ("shapes", "said", "doubt"),
    [
        (SDXL, "sd_v1", "Its metadata call it Stable Diffusion 1.x, but its modules are those of Stable Diffusion XL."),
        (Z_IMAGE, "anima", "Its metadata call it Anima, but its modules are those of Z-Image."),
        (
            SDXL,
            "wan2.1",
            "Its metadata call it Wan 2.1 1.3B or Wan 2.2 5B or Wan 14B, but its modules are those of Stable Diffusion XL.",
        ),
        (
            UNSUPPORTED[0][1],
            "sdxl_base_v1-0",
            f"Its metadata call it Stable Diffusion XL, but its modules are those of {UNSUPPORTED[0][0]}.",
        ),
    ],
)
def test_metadata_that_disagree_are_said_to(shapes: Shapes, said: str, doubt: str) -> None:
    assert identity(list(shapes), shapes, [said]).doubt == doubt


def test_names_that_are_not_known_are_said_with_the_nearest() -> None:
    names = ["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_qq", "lora_unet_input_blocks_4_1_proj_inn"]
    found = identity(names, {}, ["sdxl_base_v1-0"])
    assert not found.titles
    assert found.doubt.startswith(
        f"The names of its modules are not known (first: {names[1]}, {names[0]}); they come nearest to "
    )
    assert "another kind of model" not in found.doubt


@pytest.mark.parametrize(
    ("out", "into", "fits"), [(640, 640, True), (64, 64, True), (1280, 1280, False), (640, 64, False)]
)
def test_a_module_is_of_the_models_size_or_of_a_smaller_one_of_its_proportions(out: int, into: int, fits: bool) -> None:
    shapes = dict.fromkeys(SDXL, (out, into))
    assert bool(identity(list(shapes), shapes, []).fitting) == fits


def test_two_texts_of_metadata_that_disagree() -> None:
    """Each text counts; one that agrees with the modules chooses, and the other is told."""
    found = identity(list(SDXL), SDXL, ["sd_v2", "stable-diffusion-xl-v1-base/lora"])
    assert found.titles == ("Stable Diffusion XL",)
    assert found.doubt.startswith("Its metadata call it Stable Diffusion 2.x and Stable Diffusion XL, but")
    found = identity(list(CHROMA), CHROMA, ["flux1", "flux-1-schnell/lora"])
    assert found.titles == ("Flux.1 schnell",) and not found.doubt
    found = identity(list(CHROMA), CHROMA, ["flux-1-dev/lora", "chroma"])
    assert found.titles == ("Flux.1 dev",) and "Flux.1 dev and Chroma" in found.doubt


@pytest.mark.parametrize("word", ["animagine-xl-3.1", "wani-anime"])
def test_a_word_within_another_means_nothing(word: str) -> None:
    found = identity(list(SDXL), SDXL, [word])
    assert found.titles == ("Stable Diffusion XL",) and not found.doubt


def test_a_model_among_several_is_the_one_that_the_metadata_name() -> None:
    names = _each("transformer.transformer_blocks.{}.{}", 28, (1152, 1152), "attn1.to_q", "attn2.to_q")
    assert identity(list(names), names, ["pixart-sigma"]).titles == ("PixArt",)
    assert not identity(list(names), names, ["pixart-sigma"]).doubt


def test_modules_with_names_that_are_not_known_are_counted() -> None:
    names = [*SDXL, *(f"warp.{n}" for n in range(2))]
    found = identity(names, SDXL, [])
    assert found.titles == ("Stable Diffusion XL",) and found.strange == ("warp.0", "warp.1")
    names = [*SDXL, *(f"warp.{n}" for n in range(9))]
    found = identity(names, SDXL, [])
    assert found.doubt == "6 of its 15 modules have names of Stable Diffusion XL, the others not: warp.0, warp.1."
