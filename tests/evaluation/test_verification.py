"""Verify adapters as files on a network whose layers are a checkpoint's; what it costs; and which prompts are asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_transfer.evaluation.choice import REUSE
from lib_transfer.evaluation.conditions import Conditions
from lib_transfer.evaluation.prompts import PLAIN, prompts_of
from lib_transfer.evaluation.runs import expected_cost
from lib_transfer.evaluation.verification import Question, evaluate
from lib_transfer.library.base import Base, open_base
from lib_transfer.models import Model, Schedule, TorchModel, places
from tests import tiny
from tests.evaluation import nets

PROMPTS = ("a cat", "a dog that is long")


class Count:
    """Progress that counts what it is told."""

    def __init__(self) -> None:
        self.total = 0
        self.steps: list[str] = []

    def start(self, total: int, what: str) -> None:
        self.total = total

    def step(self, what: str) -> None:
        self.steps.append(what)

    def cancelled(self) -> bool:
        return False


def network(base: Base) -> Model:
    """Knows pictures of one colour, exactly: what the checkpoint's self-attention layers make of ones, linear in each."""
    schedule = Schedule.stable_diffusion()
    layers = nets.layers_of(base, lambda it: it.kind == "linear" and it.position.role.startswith("attn1"))

    def forward(noised: Tensor, steps: Tensor, prompts: object) -> Tensor:
        said = torch.zeros(4)
        for number, layer in enumerate(layers.values()):
            said[number % 4] += layer(torch.ones(layer.in_features)).mean()
        return nets.noise_in(noised, schedule.mix(steps / 999), said[None, :, None, None])

    return TorchModel(places(layers), forward, schedule, (4, 2, 2), differentiable=True)


class Networks:
    """Runs such networks, and remembers which."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.skips: list[int] = []
        self.sizes: list[tuple[int, int]] = []

    def latent_space(self, base: Base) -> str:
        return ""

    def clip_skip(self, base: Base, asked: int | None) -> int:
        return asked or 1

    @contextmanager
    def opener(self, size: tuple[int, int]) -> Iterator[Callable[[Base, int], AbstractContextManager[Model]]]:
        self.sizes.append(size)
        yield self._open

    @contextmanager
    def _open(self, base: Base, clip_skip: int) -> Iterator[Model]:
        self.skips.append(clip_skip)
        self.opened.append(base.path.stem)
        yield network(base)


def test_halves_and_copies_are_told_from_each_other(tmp_path: Path) -> None:
    whole = tiny.weights("sd1")
    tiny.save(tmp_path / "source.safetensors", whole, torch.float32)
    tiny.save(tmp_path / "target.safetensors", whole, torch.float32)
    with (
        open_base(tmp_path / "source.safetensors", "") as source,
        open_base(tmp_path / "target.safetensors", "") as target,
    ):
        chosen = [m for m in source.modules if m.kind == "linear" and m.position.role.startswith("attn1")][:6]
        tensors: dict[str, Tensor] = {}
        for number, module in enumerate(chosen):
            tensors |= tiny.factors(str(module.output_name), module.shape, seed=number)
        save_file(tensors, tmp_path / "lora.safetensors")
        half = {key: t / 2 if "lora_up" in key else t for key, t in tensors.items()}
        save_file(half, tmp_path / "half.safetensors")
        runner, progress = Networks(), Count()
        question = Question(tmp_path / "lora.safetensors", {"half": tmp_path / "half.safetensors"}, PROMPTS, 4, steps=2)
        said: list[str] = []
        found = evaluate(question, source, target, runner, progress, announce=said.append)
    assert 0.2 < found.gains["half"].share < 0.95
    assert found.gains[REUSE].share == pytest.approx(1, abs=1e-5)
    assert found.choice.name == REUSE
    assert runner.opened == ["target", "source", "target"]
    assert said == ["216 runs of the models; a time estimate follows after the first run."]
    assert len(progress.steps) == progress.total == 216


@pytest.mark.parametrize(("size", "pixels"), [(0, 512), (256, 256)])
def test_where_no_size_is_asked_for_it_is_the_one_that_the_target_was_trained_on(
    tmp_path: Path, size: int, pixels: int
) -> None:
    path = tiny.save(tmp_path / "base.safetensors", tiny.weights("sd1"), torch.float32)
    with open_base(path, "") as opened:
        module = next(m for m in opened.modules if m.position.role == "attn1.to_q")
        lora = tmp_path / "lora.safetensors"
        save_file(tiny.factors(str(module.output_name), module.shape), lora)
        runner = Networks()
        question = Question(lora, {"again": lora}, PROMPTS, 1, size, steps=1)
        found = evaluate(question, opened, opened, runner, Count())
    assert runner.sizes == [(pixels, pixels)]
    assert found.conditions is not None
    assert found.conditions.size == (pixels, pixels)


@pytest.mark.parametrize(
    ("family", "metadata", "asked", "skip"),
    [
        ("sd1", {"ss_clip_skip": "2"}, 0, 2),
        ("sd1", {"ss_clip_skip": "2"}, 3, 3),
        ("sd1", {"ss_clip_skip": "None"}, 0, 1),
        ("sd1", {}, 0, 1),
        ("sd1", {}, 4, 4),
        # Trainers of XL write it, but do not follow it.
        ("sdxl", {"ss_clip_skip": "3"}, 0, 1),
        ("sdxl", {"ss_clip_skip": "3"}, 2, 2),
    ],
)
def test_clip_skip_is_what_was_asked_for_else_the_loras_own_else_the_runners(
    tmp_path: Path, family: str, metadata: dict[str, str], asked: int, skip: int
) -> None:
    path = tiny.save(tmp_path / "base.safetensors", tiny.weights(family), torch.float32)
    with open_base(path, "") as base:
        module = next(m for m in base.modules if m.position.role == "attn1.to_q")
        lora = tmp_path / "lora.safetensors"
        save_file(tiny.factors(str(module.output_name), module.shape), lora, metadata)
        runner = Networks()
        question = Question(lora, {}, PROMPTS, 1, 64, seed=7, steps=1, clip_skip=asked)
        found = evaluate(question, base, base, runner, Count())
    assert runner.skips == [skip, skip, skip]
    assert found.conditions == Conditions((skip, skip), (64, 64), 7, 1, PROMPTS)
    assert found.facts()["conditions"]["clip_skip"] == {"source": skip, "target": skip}
    assert f"Clip skip {skip}," in found.text


def test_the_cost_is_what_is_run() -> None:
    assert expected_cost(8) == "At most 848 runs of the models; a time estimate follows after the first run."
    assert expected_cost(8, seconds_per_run=0.1) == "At most 848 runs of the models, about 85 s."
    with_training = expected_cost(8, imitating=True)
    assert with_training == (
        "At most 4976 runs of the models (3120 of them for a training of 96 steps); a time estimate follows after the first "
        "run."
    )


@pytest.mark.parametrize(
    ("metadata", "first"),
    [
        ({}, PLAIN[0]),
        ({"ss_tag_frequency": "no table"}, PLAIN[0]),
        ({"ss_tag_frequency": "[" * 100_000}, PLAIN[0]),
        ({"ss_tag_frequency": json.dumps({"a": {"tag": "many"}, "b": 3, "c": {" ": 4}})}, PLAIN[0]),
        ({"modelspec.trigger_phrase": "ohwx, style of it"}, f"ohwx, style of it, {PLAIN[0]}"),
        (
            {"ss_tag_frequency": json.dumps({"1_x": {"cat": 2, "ohwx": 9}, "2_y": {"dog": 1, "cat": 1}})},
            "ohwx, cat, dog",
        ),
        ({"modelspec.trigger_phrase": "x" * 900}, "x" * 200),
    ],
)
def test_prompts_have_the_words_of_the_adapter(metadata: dict[str, str], first: str) -> None:
    made = prompts_of(metadata)
    assert len(made) == 4
    assert made[0] == first
    assert all(0 < len(prompt) <= 200 for prompt in made)
