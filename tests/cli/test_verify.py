"""``verify`` from the command line, where the answer is known: the same model, no change, the opposite change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests import tiny
from tests.autoencoders import autoencoder
from tests.cli.conftest import ROOT, Done

jsonschema = pytest.importorskip("jsonschema", reason="the tools are not in this environment")
pytest.importorskip("diffusers", reason="the tools are not in this environment")

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
    assert "This takes 532 runs of the models; a time estimate follows" in " ".join(done.err.split())
    assert {path: path.read_bytes() for path in before} == before
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in before}


def test_without_a_transferred_file_one_is_made_and_goes_again(
    cli: Cli, style: Path, files: tiny.Files, tmp_path: Path
) -> None:
    done = cli(
        "verify", style, "--source", files["sd1-source"], "--target", files["sd1-target"], *FEW, "--json", "found.json",
        "--card", "card.json", "--prompt", "a secret garden",
    )  # fmt: skip
    told = json.loads((tmp_path / "found.json").read_text())
    assert set(told["gains"]) == {"rotation.safetensors", "reuse"}
    assert done.code == (0 if told["best"] else 2), done.err
    text = (tmp_path / "card.json").read_text()
    card = json.loads(text)
    jsonschema.validate(card, json.loads((ROOT / "docs" / "card.schema.json").read_text()))
    for role, path in (("adapter", style), ("source", files["sd1-source"]), ("target", files["sd1-target"])):
        assert card[role]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [each["role"] for each in card["adapters"]] == ["transferred", "reuse"]
    assert [each["gain"] for each in card["adapters"]] == [each["gain"] for each in told["gains"].values()]
    assert not any(word in text for word in ("secret", "style", "sd1-source", "safetensors", str(tmp_path)))
    assert told["reason"] in done.out
    assert {p.name for p in tmp_path.iterdir()} == {style.name, "found.json", "card.json"}


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
    assert "sd1-source.safetensors has no autoencoder (VAE)" in done["autoencoders"].err
    assert "Pictures of 100 pixels cannot be made." in done["size"].err
    assert "There is no Clip skip 13. Choose one from 1 to 12." in " ".join(done["skip"].err.split())
    assert "it has to be 1 or more" in done["inputs"].err
    assert not any("Traceback" in it.err for it in done.values())


def test_models_of_different_latent_spaces_run(cli: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
    """Through the autoencoders that are in the checkpoints; on XL, no change explains nothing of what the LoRA does on SD1."""
    pair = [
        tiny.save(tmp_path / f"{name}.safetensors", files.tensors[f"{name}-source"] | autoencoder(), torch.float16)
        for name in ("sd1", "sdxl")
    ]
    nothing = tiny.factors("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", (16, 16), size=0)
    other = tiny.save(tmp_path / "nothing.safetensors", nothing)
    done = cli(
        "verify", style, "--source", pair[0], "--target", pair[1], "--transferred", other, *FEW, "--json", "found.json"
    )
    assert not done.err, done.err
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["gains"]["nothing.safetensors"]["gain"] in (0, None)
