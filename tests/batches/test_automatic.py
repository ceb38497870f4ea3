"""The automatic method, from files to files, on models whose answers are known exactly.

A model paints pictures that are normal around a colour. The colour is linear in four of the checkpoint's layers, and a LoRA
changes it where the prompt has the word "styled". The target follows a LoRA by less than half, so that reuse falls short by as
much and a trained one need not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lib_transfer
from lib_transfer.cli.main import main
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError
from lib_transfer.evaluation.record import records_in
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.base import Base
from lib_transfer.models import Model, Schedule, TorchModel, places
from lib_transfer.progress import Silent
from tests import tiny
from tests.evaluation import nets

FOLLOWS = 0.4
BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"


class Painters:
    """Runs such models; the checkpoint called ``damped`` follows a LoRA by :data:`FOLLOWS` alone."""

    on_gpu = False

    def latent_space(self, base: Base) -> str:
        return ""

    def clip_skip(self, base: Base, asked: int | None) -> int:
        return asked or 1

    @contextmanager
    def opener(self, size: tuple[int, int]) -> Iterator[Callable[[Base, int], AbstractContextManager[Model]]]:
        yield lambda base, clip_skip: nullcontext(painter(base))


def painter(base: Base) -> Model:
    layers = nets.layers_of(base, lambda it: it.name.startswith(f"{BLOCK}.attn1."))
    schedule, follows = Schedule.stable_diffusion(), FOLLOWS if "damped" in base.path.name else 1.0

    def colour(prompt: str) -> Tensor:
        said = torch.zeros(4)
        for number, layer in enumerate(layers.values()):
            words = torch.ones(layer.in_features)
            words[::2] = float("styled" in prompt)
            said[number % 4] += (follows * layer(words) + (1 - follows) * (layer.weight @ words)).sum()
        return said[:, None, None]

    def forward(x: Tensor, steps: Tensor, prompts: tuple[str, ...]) -> Tensor:
        return nets.noise_in(x, schedule.mix(steps / 999), torch.stack([colour(prompt) for prompt in prompts]))

    return TorchModel(places(layers), forward, schedule, (4, 2, 2), differentiable=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = tiny.weights("sd1")
    for name in ("base", "same", "damped"):
        changed = tiny.fine_tuned(weights, 1e-4) if name != "base" else weights
        tiny.save(tmp_path / f"{name}.safetensors", changed, torch.float32)
    return tmp_path


def lora(folder: Path, name: str, seed: int) -> Path:
    """Changes four self-attention layers, a channel of the picture each, where "styled" is in the prompt."""
    folder.mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(("to_q", "to_k", "to_v", "to_out_0")):
        generator = torch.Generator().manual_seed(10 * seed + number)
        up, down = torch.randn(8, 1, generator=generator), torch.zeros(1, 8)
        down[0, ::2] = 0.5
        key = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_{part}"
        tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(1.0)}
    metadata = {"ss_sd_model_name": "base.safetensors", "modelspec.trigger_phrase": "styled"}
    return tiny.save(folder / f"{name}.safetensors", tensors, None, metadata)


def runtime(folder: Path) -> Runtime:
    return Runtime(device="cpu", cache_folder=folder / "cache", workers=1)


def test_a_lora_that_reuse_weakens_is_trained_and_one_that_reuse_keeps_is_reused(folder: Path) -> None:
    original = lora(folder / "loras", "style", 1)

    def made(target: str, **settings: object) -> lib_transfer.TransferResult:
        job = lib_transfer.request(
            original, source=folder / "base.safetensors", target=folder / f"{target}.safetensors", method="auto",
            runtime=runtime(folder), runs=2600, **settings,  # type: ignore[arg-type]
        )  # fmt: skip
        return lib_transfer.transfer(job, models=Painters(), runtime=runtime(folder))

    trained = made("damped")
    assert trained.path is not None
    header = read_header(trained.path)
    [record] = records_in(header.metadata)
    # The pictures are drawn with guidance, at g times the change of the colour: a change of f of it gains g^2 - (g - f)^2.
    g = 2.0
    assert record.gains["reuse"].share == pytest.approx((g**2 - (g - FOLLOWS) ** 2) / (2 * g - 1), abs=0.02)
    assert record.gains["imitate"].share > 0.9
    assert record.gap < 0.05
    request = json.loads(header.metadata["transfer_lora.request"])
    assert (request["method"], request["settings"]["runs"], request["settings"]["prompts"]) == ("auto", 2600, "")
    sizes = [effect(original), effect(trained.path)]
    assert torch.allclose(sizes[1], sizes[0] / FOLLOWS, atol=0.15 * float(sizes[0].abs().max()) / FOLLOWS)
    assert "imitate has a gain of" in trained.warnings[-1]

    again = made("damped")
    assert (again.status, again.path) == ("already done", trained.path)
    double = made("damped", strength=2.0)
    assert torch.allclose(effect(double.path), 2 * sizes[1], rtol=1e-3)

    kept = made("same")
    assert kept.path is not None
    assert torch.allclose(effect(kept.path), sizes[0], rtol=1e-4)
    [record] = records_in(read_header(kept.path).metadata)
    assert record.gains["reuse"].share == pytest.approx(1, abs=0.02)


def effect(path: Path | None) -> Tensor:
    """What a LoRA adds to the four channels of a styled picture."""
    assert path is not None
    tensors, sums = load_file(path), torch.zeros(4)
    for number, part in enumerate(("to_q", "to_k", "to_v", "to_out_0")):
        key = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_{part}"
        up, down = tensors[f"{key}.lora_up.weight"].float(), tensors[f"{key}.lora_down.weight"].float()
        scale = float(tensors[f"{key}.alpha"]) / len(down)
        sums[number] = (scale * up @ down @ torch.ones(down.shape[1])).sum()
    return sums


class Stopping(Silent):
    """Asks to stop after so many runs."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, what: str) -> None:
        self.left -= 1

    def cancelled(self) -> bool:
        return self.left <= 0


def test_a_stopped_one_writes_nothing_and_goes_on_to_the_same_bytes(folder: Path) -> None:
    original = lora(folder / "loras", "style", 2)
    how = {
        "source": folder / "base.safetensors",
        "target": folder / "damped.safetensors",
        "method": "auto",
        "runs": 2600,
    }
    job = lib_transfer.request(original, runtime=runtime(folder), **how)  # type: ignore[arg-type]
    for after in (300, 700, 900):
        with pytest.raises(CancelledError):
            lib_transfer.transfer(job, models=Painters(), runtime=runtime(folder), progress=Stopping(after))
        assert [path.name for path in (folder / "loras").iterdir()] == ["style.safetensors"]
    resumed = lib_transfer.transfer(job, models=Painters(), runtime=runtime(folder))
    whole = lib_transfer.transfer(
        job, lib_transfer.Destination(file=folder / f"{resumed.path.name}"),  # type: ignore[union-attr]
        models=Painters(), runtime=Runtime(device="cpu", cache_folder=folder / "other", workers=1),
    )  # fmt: skip
    assert whole.path is not None
    assert resumed.path is not None
    assert load_file(whole.path).keys() == load_file(resumed.path).keys()
    assert whole.path.read_bytes() == resumed.path.read_bytes()


def test_a_batch_does_one_after_another_and_says_what_is_wrong_with_one(folder: Path) -> None:
    lora(folder / "loras", "one", 3)
    (folder / "loras" / "torn.safetensors").write_bytes((folder / "loras" / "one.safetensors").read_bytes()[:300])
    report = lib_transfer.batch(
        [folder / "loras"], target=folder / "damped.safetensors", source=folder / "base.safetensors", method="auto",
        runs=2600, models=Painters(), runtime=runtime(folder), workers=2,
    )  # fmt: skip
    said = [report.outcome(name) for name in ("one", "torn")]
    assert [outcome.status for outcome in said if outcome] == ["written", "failed"]
    written = report.outcomes["one"]
    assert written.path is not None
    assert records_in(read_header(written.path).metadata)


def test_the_command_line_says_the_cost_and_what_was_chosen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lib_transfer.batches.automatic.DiffusersModels", lambda device: Painters())
    loras = folder / "loras"
    original = lora(loras, "style", 4)
    models = ["--source", str(folder / "base.safetensors"), "--target", str(folder / "damped.safetensors")]
    how = [*models, "--method", "auto", "--runs", "2600", "--cache-dir", str(folder / "cache"), "--device", "cpu"]
    assert main(["transfer", str(original), *how, "--json", str(folder / "found.json")]) == 0
    said = capsys.readouterr().out
    assert "At most 2592 runs of the models" in said
    assert "imitate has a gain of" in said
    found = json.loads((folder / "found.json").read_text())
    assert found["request"]["method"] == "auto"
    assert found["report"]["gains"]["imitate"]["verdict"] == "reproduces"

    lora(loras, "other", 5)
    assert main(["batch", str(loras), *how]) == 0
    said = capsys.readouterr().out
    assert "At most 2592 runs of the models, and at most" in said
    assert len(list(loras.glob("other_damped_auto_*.safetensors"))) == 1

    assert main(["transfer", str(original), *how, "--dry-run"]) == 2
    assert "known only afterwards" in capsys.readouterr().err
    assert main(["transfer", str(lora(loras, "third", 6)), *how, "--runs", "3"]) == 2
    assert "The setting runs cannot be '3'" in capsys.readouterr().err

    # A target that follows no LoRA at all.
    monkeypatch.setitem(globals(), "FOLLOWS", 0.0)
    before = set(loras.iterdir())
    deaf = lora(loras, "deaf", 7)
    assert main(["transfer", str(deaf), *how]) == 2
    assert "Nothing was written.\n  None transfers: the best, " in capsys.readouterr().out
    assert set(loras.iterdir()) == {*before, deaf}
