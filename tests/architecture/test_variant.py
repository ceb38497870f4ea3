"""What sets checkpoints of one architecture apart: markers of the prediction, and the channels they see."""

from __future__ import annotations

import pytest

from lib_transfer.architecture import Tensors, modules, recognise, reference
from lib_transfer.architecture.sampling import EPSILON, FLOW, V
from lib_transfer.architecture.variant import SPREAD_OF_V, Variant, settled, telltale, variant
from tests.architecture.known import known

UNET = "model.diffusion_model."


def _variant(tensors: Tensors) -> Variant:
    return variant(recognise(tensors), tensors)


def _seeing(name: str, channels: int, *, style: str | None = None) -> dict[str, tuple[int, ...]]:
    """A checkpoint whose first layer has so many input channels."""
    tensors = reference(known(name), width=8, style=style)
    ways_in = (
        "input_blocks.0.0",
        "unet.conv_in",
        "img_in",
        "x_embedder",
        "patch_embedding",
        "x_embedder.proj",
        "first",
    )
    first = tuple(f"{path}.weight" for path in ways_in)
    key = next(key for key in tensors if key.endswith(first))
    out, _, *kernel = tensors[key]
    return {**tensors, key: (out, channels, *kernel)}


@pytest.mark.parametrize(
    ("name", "channels", "sees"),
    [
        ("sd1", 4, ""),
        ("sd1", 9, "inpainting"),
        ("sd1", 8, "pix2pix"),
        ("sd2", 5, "depth"),
        ("sd2", 7, "upscaler"),
        ("sdxl", 9, "inpainting"),
        ("sdxl", 8, "pix2pix"),
        ("flux-dev", 64, ""),
        ("flux-dev", 384, "Fill"),
        ("flux-dev", 128, "Canny or Depth"),
        ("sdxl", 6, "6 channels instead of 4"),
        ("flux-dev", 196, "196 channels instead of 64"),
        ("flux2-klein-4b", 128, ""),
        ("qwen-image", 96, "96 channels instead of 64"),
        ("wan-14b", 16, ""),
        ("wan-14b", 36, "I2V"),
        ("wan-5b", 48, ""),
        ("wan-14b", 48, "Fun Control"),
        ("ernie-image", 128, ""),
        ("krea-2", 64, ""),
    ],
)
@pytest.mark.parametrize("style", [None, "diffusers"])
def test_what_it_sees(name: str, channels: int, sees: str, style: str | None) -> None:
    tensors = _seeing(name, channels, style=style)
    assert recognise(tensors) is known(name)
    found = _variant(tensors).input
    assert (sees in found) if sees else found == ""


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ((), EPSILON),
        (("v_pred",), V),
        (("v_pred", "ztsnr"), "velocity (v) with zero terminal SNR"),
        (("edm_mean", "edm_std"), "EDM"),
        (("edm_vpred.sigma_max", "edm_vpred.sigma_min"), "velocity (v) in EDM's scaling"),
        (("ztsnr",), EPSILON),
    ],
)
def test_markers(marks: tuple[str, ...], says: str) -> None:
    tensors: dict[str, tuple[int, ...]] = {**reference(known("sdxl"), width=8), **dict.fromkeys(marks, ())}
    assert _variant(tensors).prediction == says
    assert telltale(known("sdxl"), tensors) is None


@pytest.mark.parametrize("name", ["sd3-medium", "sd3.5-large", "flux-dev", "flux-schnell", "chroma"])
def test_transformers_predict_the_flow(name: str) -> None:
    assert _variant(reference(known(name), width=8)) == Variant(FLOW, "")


@pytest.mark.parametrize(
    ("style", "key"),
    [
        (None, f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"),
        ("diffusers", "unet.up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"),
    ],
)
def test_only_weights_tell_of_stable_diffusion_2(style: str | None, key: str) -> None:
    tensors = reference(known("sd2"), width=8, style=style)
    found = _variant(tensors)
    assert found == Variant(None, "")
    assert telltale(known("sd2"), tensors) == key and key in tensors
    assert settled(found, 2 * SPREAD_OF_V).prediction == V
    assert settled(found, SPREAD_OF_V / 2).prediction == EPSILON


def test_what_was_made_of_the_base_model_predicts_the_noise() -> None:
    for channels in (5, 7, 9):
        assert _variant(_seeing("sd2", channels)).prediction == EPSILON


def test_a_file_without_the_telltale_tells_nothing() -> None:
    tensors = reference(known("sd2"), width=8)
    tensors.pop(f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    assert _variant(tensors).prediction is None
    assert telltale(known("sd2"), tensors) is None


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "ssd-1b"])
@pytest.mark.parametrize(
    ("style", "key"),
    [(None, f"{UNET}time_embed.cond_proj.weight"), ("diffusers", "unet.time_embedding.cond_proj.weight")],
)
def test_a_latent_consistency_model_is_what_it_was_made_from(name: str, style: str | None, key: str) -> None:
    tensors = {**reference(known(name), width=8, style=style), key: (8, 256)}
    assert recognise(tensors) is known(name)
    plain, found = _variant(reference(known(name), width=8, style=style)), _variant(tensors)
    assert found.input == "the guidance scale (a latent consistency model, LCM)"
    assert (plain.input, plain.prediction) == ("", found.prediction)
    assert key not in {module.weight for module in modules(known(name), tensors)}


def test_one_that_fills_pictures_too_sees_both() -> None:
    tensors = {**_seeing("sdxl", 9), f"{UNET}time_embed.cond_proj.weight": (8, 256)}
    assert _variant(tensors).input == (
        "the picture to fill and its mask (inpainting) and the guidance scale (a latent consistency model, LCM)"
    )
