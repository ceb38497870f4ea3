"""What source and target predict and see is named in the verdict where it differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lib_transfer
from lib_transfer.conversion.variants import usual_size
from lib_transfer.library.base import open_base
from tests import tiny

UNET = "model.diffusion_model."
TELLTALE = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"


def verdict(source: tiny.Weights, target: tiny.Weights, tmp_path: Path) -> str:
    names = {"source": source, "target": target}
    paths = {name: tiny.save(tmp_path / f"{name}.safetensors", weights) for name, weights in names.items()}
    key = next(key for key in source if key.endswith("input_blocks.4.1.proj_in.weight"))
    name = "lora_unet_" + key.removeprefix(UNET).removesuffix(".weight").replace(".", "_")
    lora = tiny.save(tmp_path / "style.safetensors", tiny.factors(name, source[key].shape))
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")
    request = lib_transfer.request(lora, source=paths["source"], target=paths["target"], runtime=runtime, threshold=0.0)
    report = lib_transfer.analyse(request, runtime=runtime)
    assert all(note in report.verdict for note in report.notes)
    return " ".join(report.notes)


def test_nothing_is_said_where_nothing_differs(tmp_path: Path) -> None:
    weights = tiny.weights("sdxl", width=8)
    assert verdict(weights, tiny.fine_tuned(weights), tmp_path) == ""


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (("v_pred",), "velocity (v):"),
        (("v_pred", "ztsnr"), "velocity (v) with zero terminal SNR"),
        (("edm_mean", "edm_std"), "EDM"),
    ],
)
def test_the_prediction_of_sdxl_is_told_by_markers(marks: tuple[str, ...], said: str, tmp_path: Path) -> None:
    weights = tiny.weights("sdxl", width=8)
    told = verdict(weights, weights | {mark: torch.zeros(1) for mark in marks}, tmp_path)
    assert told.startswith("The source predicts noise (epsilon), the target ") and said in told


def test_that_of_sd2_by_a_tensor_that_spreads(tmp_path: Path) -> None:
    weights = tiny.weights("sd2", width=8)
    bias = torch.linspace(-1, 1, weights[TELLTALE].numel())
    one, other = ({**weights, TELLTALE: bias * size} for size in (0.01, 1.0))
    assert "predicts noise (epsilon), the target velocity (v)" in verdict(one, other, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "spread", "size"), [("sd1", 0.0, 512), ("sd2", 0.01, 512), ("sd2", 1.0, 768), ("sdxl", 0.0, 1024)]
)
def test_the_size_of_pictures_that_a_base_was_trained_on(
    architecture: str, spread: float, size: int, tmp_path: Path
) -> None:
    weights = tiny.weights(architecture, width=8)
    if spread:
        weights |= {TELLTALE: spread * torch.randn(weights[TELLTALE].shape)}
    with open_base(tiny.save(tmp_path / "base.safetensors", weights), "") as base:
        assert usual_size(base) == size


def test_inpainting(tmp_path: Path) -> None:
    weights = tiny.weights("sd1", width=8)
    wide = torch.randn(8, 9, 3, 3)
    told = verdict(weights, {**weights, f"{UNET}input_blocks.0.0.weight": wide}, tmp_path)
    assert told.endswith("sees nothing, and the target the picture to fill and its mask (inpainting).")


def test_a_relative_is_named(tmp_path: Path) -> None:
    told = verdict(tiny.weights("sdxl", width=8), tiny.weights("ssd-1b", width=8), tmp_path)
    assert told == "The LoRA was trained on Stable Diffusion XL; the target is SSD-1B."
