"""What sets source and target apart beside their weights is in the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lib_transfer
from lib_transfer.conversion.differences import differences
from lib_transfer.library.base import open_base
from tests import tiny

UNET = "model.diffusion_model."
TELLTALE = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"


def verdict(
    source: tiny.Weights | None,
    target: tiny.Weights,
    tmp_path: Path,
    names: tuple[str, str] = ("source", "target"),
    metadata: dict[str, str] | None = None,
) -> str:
    """What the report of a transfer says beside the numbers; without a source, of plain reuse."""
    given = {name: weights for name, weights in zip(names, (source, target), strict=True) if weights is not None}
    paths = {name: tiny.save(tmp_path / f"{name}.safetensors", weights) for name, weights in given.items()}
    key = next(key for key in target if key.endswith("input_blocks.4.1.proj_in.weight"))
    name = "lora_unet_" + key.removeprefix(UNET).removesuffix(".weight").replace(".", "_")
    lora = tiny.save(tmp_path / "style.safetensors", tiny.factors(name, target[key].shape), metadata=metadata)
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")
    if source is None:
        request = lib_transfer.request(lora, target=paths[names[1]], method="reuse", runtime=runtime)
    else:
        request = lib_transfer.request(
            lora, source=paths[names[0]], target=paths[names[1]], runtime=runtime, threshold=0.0
        )
    report = lib_transfer.analyse(request, runtime=runtime)
    assert all(note in report.verdict for note in report.notes)
    return " ".join(note for note in report.notes if not note.startswith("Source and target are"))


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


def test_inpainting(tmp_path: Path) -> None:
    weights = tiny.weights("sd1", width=8)
    wide = torch.randn(8, 9, 3, 3)
    told = verdict(weights, {**weights, f"{UNET}input_blocks.0.0.weight": wide}, tmp_path)
    assert told.endswith("sees nothing, and the target the picture to fill and its mask (inpainting).")


def test_a_relative_is_named(tmp_path: Path) -> None:
    told = verdict(tiny.weights("sdxl", width=8), tiny.weights("ssd-1b", width=8), tmp_path)
    assert told == "The LoRA was trained on Stable Diffusion XL; the target is SSD-1B."


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("waiIllustriousSDXL_v140", "ponyDiffusionV6XL"), "the source is Illustrious, and the target is Pony."),
        (("sd_xl_base_1.0", "noobaiXLNAIXL_vPred10"), "of no special kind, and the target is NoobAI and v-prediction."),
        (("animagine", "animagine-lightning_4step"), "may suit a LoRA."),
        (("one_turbo", "other_turbo"), ""),
    ],
)
def test_what_names_say_is_said_as_such(names: tuple[str, str], said: str, tmp_path: Path) -> None:
    weights = tiny.weights("sdxl", width=8)
    told = verdict(weights, tiny.fine_tuned(weights), tmp_path, names)
    assert "As far as names tell, " in told and said in told if said else told == ""
    assert ("predicts noise (epsilon), the target velocity (v), as its name says" in told) == ("vPred" in names[1])


def test_a_marker_and_a_name_that_say_the_same_do_not_differ(tmp_path: Path) -> None:
    weights = tiny.weights("sdxl", width=8)
    marked = weights | {mark: torch.zeros(1) for mark in ("v_pred", "ztsnr")}
    assert "predicts" not in verdict(marked, weights, tmp_path, ("a", "noob_vpred"))


def test_without_the_source_its_metadata_speak(tmp_path: Path) -> None:
    metadata = {"ss_sd_model_name": "folder/illustriousXL_v01.safetensors", "modelspec.prediction_type": "v"}
    told = verdict(None, tiny.weights("sdxl", width=8), tmp_path, ("", "pony"), metadata)
    assert "By its metadata the LoRA was trained to predict velocity (v), the target noise (epsilon): " in told
    assert "what the LoRA was trained on is Illustrious, and the target is Pony." in told


def test_without_metadata_nothing_is_guessed(tmp_path: Path) -> None:
    assert verdict(None, tiny.weights("sdxl", width=8), tmp_path, ("", "pony")) == ""


def test_how_relatives_are_run_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "bases"
    folder.mkdir()
    paths = [tiny.save(folder / f"{name}.safetensors", tiny.weights(name, width=8)) for name in ("flux-dev", "chroma")]
    with open_base(paths[0], "a") as source, open_base(paths[1], "b") as target:
        _, *said = differences(source, target)
    assert said == [
        "The source takes the guidance scale as an input (distilled guidance), and the target does not.",
        "The noise levels of the source are shifted by 3.16, those of the target by 1.",
    ]
