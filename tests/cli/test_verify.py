"""``verify`` from the command line, where the answer is known: the same model, no change, the opposite change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests import tiny
from tests.cli.conftest import Done

Cli = Callable[..., Done]
FEW = ("--inputs", 1, "--size", 128, "--device", "cpu")


def _times(path: Path, by: float, to: Path) -> Path:
    tensors = {key: t * by if key.endswith("lora_up.weight") else t for key, t in load_file(path).items()}
    return tiny.save(to, tensors)


def test_the_answers_that_are_known(cli: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
    """On one model, nothing gains nothing, and reuse as much as the original; a model of noise may gain nothing by a LoRA."""
    nothing, opposite = (
        _times(style, by, tmp_path / f"{name}.safetensors") for name, by in (("nothing", 0), ("opposite", -1))
    )
    before = {path: path.read_bytes() for path in (style, nothing, opposite)}
    done = cli(
        "verify", style, "--source", files["sd1-source"], "--target", files["sd1-source"], "--transferred", nothing,
        "--transferred", opposite, "--prompt", "a house", *FEW, "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads(done.out)
    found = {name: gain["gain"] for name, gain in told["gains"].items()}
    assert found["reuse"] is None or found["reuse"] == pytest.approx(1, abs=1e-4)
    assert found["nothing.safetensors"] in (0, None)
    assert (told["gap"] is None) == (found["reuse"] is None)
    assert told["gains"]["nothing.safetensors"]["damage"] == 0
    assert told["best"] == "reuse"
    assert "This takes 484 runs of the models; a time estimate follows" in " ".join(done.err.split())
    assert {path: path.read_bytes() for path in before} == before
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in before}


def test_without_a_transferred_file_one_is_made_and_goes_again(
    cli: Cli, style: Path, files: tiny.Files, tmp_path: Path
) -> None:
    done = cli(
        "verify", style, "--source", files["sd1-source"], "--target", files["sd1-target"], *FEW, "--json", "found.json"
    )
    told = json.loads((tmp_path / "found.json").read_text())
    assert set(told["gains"]) == {"rotation.safetensors", "reuse"}
    assert done.code == (0 if told["best"] else 2), done.err
    assert told["reason"] in done.out
    assert {p.name for p in tmp_path.iterdir()} == {style.name, "found.json"}


def test_what_was_found_is_noted_in_an_output_of_ours_alone(
    cli: Cli, style: Path, files: tiny.Files, tmp_path: Path
) -> None:
    pair = ("--source", files["sd1-source"], "--target", files["sd1-target"])
    assert cli("transfer", style, *pair, "--output", "ours.safetensors").code == 0
    ours = tmp_path / "ours.safetensors"
    before = load_file(ours)
    cli("verify", style, *pair, "--transferred", ours, "--note", *FEW, "--json", "found.json")
    with safe_open(str(ours), "pt") as file:
        noted = json.loads(file.metadata()["transfer_lora.match"])
    assert noted == json.loads((tmp_path / "found.json").read_text())
    assert noted["conditions"]["clip_skip"] == {"source": 1, "target": 1}
    assert (noted["conditions"]["size"], noted["conditions"]["seed"]) == ({"source": 128, "target": 128}, 0)
    assert len(noted["conditions"]["prompts"]) == 4

    # Under another Clip skip, another match: both are kept, and the last one comes first.
    done = cli("verify", style, *pair, "--transferred", ours, "--note", *FEW, "--clip-skip", 2)
    assert "This holds for Clip skip 2, pictures of 128 pixels, seed 0, and 1 input of 4 prompts." in done.out
    with safe_open(str(ours), "pt") as file:
        last = json.loads(file.metadata()["transfer_lora.match"])
    assert last["conditions"]["clip_skip"] == {"source": 2, "target": 2}
    assert last["earlier"] == [noted]
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(ours).items())

    content = style.read_bytes()
    done = cli("verify", style, *pair, "--transferred", style, "--note", *FEW)
    assert done.code == 2
    assert "was not made by Transfer LoRA" in done.err
    assert "This takes" not in done.out
    assert style.read_bytes() == content


def test_what_cannot_be_verified_is_said_before_anything_runs(
    several: Callable[..., dict[str, Done]], style: Path, files: tiny.Files, tmp_path: Path
) -> None:
    flux = tiny.save(tmp_path / "flux.safetensors", tiny.weights("flux-dev"), torch.float16)
    source = ("verify", style, "--source", files["sd1-source"])
    done = several({
        "flux": (*source, "--target", flux, *FEW),
        "autoencoders": (*source, "--target", files["sdxl-source"], *FEW),
        "size": (*source, "--target", files["sd1-target"], "--size", 100),
        "skip": (*source, "--target", files["sd1-target"], "--clip-skip", 13),
        "inputs": (*source, "--target", files["sd1-target"], "--inputs", 0),
        "other": ("verify", style, "--source", files["sdxl-source"], "--target", files["sdxl-target"], *FEW),
    })  # fmt: skip
    assert {name: it.code for name, it in done.items()} == dict.fromkeys(done, 2)
    assert "cannot be run without a WebUI" in done["flux"].err
    assert "different autoencoders" in done["autoencoders"].err
    assert "Pictures of 100 pixels cannot be made." in done["size"].err
    assert "There is no Clip skip 13. Choose one from 1 to 12." in " ".join(done["skip"].err.split())
    assert "it has to be 1 or more" in done["inputs"].err
    assert not any("Traceback" in it.err for it in done.values())


def test_a_better_one_is_looked_for_and_written(cli: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
    """Transferred at half its strength to its own base, it is best reused whole; the file does what the original does."""
    half = _times(style, 0.5, tmp_path / "half.safetensors")
    command = (
        "verify", style, "--source", files["sd1-source"], "--target", files["sd1-source"], "--transferred", half,
        "--improve", "best.safetensors", "--rank", 2, "--budget", 1700, *FEW, "--inputs", 1, "--json", "found.json",
    )  # fmt: skip
    done = cli(*command)
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "found.json").read_text())
    assert {"half.safetensors", "reuse"} <= set(told["gains"])
    assert told["best"] == "reuse"
    written = load_file(tmp_path / "best.safetensors")
    given = load_file(style)
    stems = {key.rpartition(".lora_")[0] for key in given if ".lora_" in key}
    assert {key.rpartition(".lora_")[0] for key in written if ".lora_" in key} == stems
    for stem in stems:
        up, down = (written[f"{stem}.lora_{side}.weight"].double() for side in ("up", "down"))
        scale = written[f"{stem}.alpha"].double() / down.shape[0]
        source_up, source_down = (given[f"{stem}.lora_{side}.weight"].double() for side in ("up", "down"))
        expected = source_up @ source_down * given[f"{stem}.alpha"].double() / source_down.shape[0]
        assert ((up @ down * scale) - expected).norm() < 2e-3 * expected.norm()
    with safe_open(str(tmp_path / "best.safetensors"), "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_sd_model_name"] == "sd1-source.safetensors"
    request = json.loads(metadata["transfer_lora.request"])
    assert request["method"] == "auto"
    assert json.loads(metadata["transfer_lora.report"])["best"] == "reuse"

    again = cli(*command)
    assert again.code == 2
    assert "best.safetensors exists" in again.err
    assert "This takes" not in again.out
