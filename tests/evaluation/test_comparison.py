"""The order in which models are run, what is announced and kept, and what is made, on painters whose colours are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_transfer.errors import CancelledError, MismatchError, NumericError
from lib_transfer.evaluation import Adapters, Amounts, Evaluation, Pair, Setup, compare
from lib_transfer.evaluation.comparison import forget, runs_of
from lib_transfer.evaluation.runs import planned
from lib_transfer.evaluation.thresholds import FAR
from lib_transfer.progress import Silent
from lib_transfer.storage.cache import Cache
from lib_transfer.update import Update
from tests.evaluation import nets

FEW = Amounts(held=4, held_draws=2, own=2, own_draws=4, taught=6, plain=2, batch=4, sampling=4, budget=2000)
SETUP = Setup(("red styled", "blue styled"), ("red", "blue"), FEW)


class Counting(Silent):
    """Counts what is announced and what happens."""

    def __init__(self, stop: int = -1) -> None:
        self.total, self.steps, self.stop = 0, 0, stop

    def start(self, total: int, what: str) -> None:
        self.total += total

    def step(self, what: str) -> None:
        self.steps += 1

    def cancelled(self) -> bool:
        return 0 <= self.stop <= self.steps


class World:
    """A source, a target, the LoRA of the source, and a log of who came into memory."""

    def __init__(self, target: nets.Painter, *, ids: bool = False, spaces: bool = False) -> None:
        self.source, self.target, self.log = nets.Painter(0), target, list[str]()
        self.style = self.source.style()
        self.calls = 0
        for painter in (self.source, self.target):
            painter.register_forward_pre_hook(self._called)
        self.one_space = not spaces
        self.target_model = self.target.model()
        if spaces:
            self.target_model = self.target.model(space="other", encode=torch.neg, decode=torch.neg)
        self.pair = Pair(
            nets.opens(self.source.model(), self.log, "source"),
            nets.opens(self.target_model, self.log, "target"),
            nets.modules(self.source),
            nets.modules(self.target),
            self.one_space,
            *(("the source", "the target") if ids else ()),
        )

    def _called(self, *_: object) -> None:
        self.calls += 1

    @property
    def reuse(self) -> Adapters:
        return Adapters(self.style, {"reuse": self.style})


def near(by: float) -> nets.Painter:
    """The source, all colours of which are shifted: a checkpoint that paints other pictures."""
    painter = nets.Painter(0)
    with torch.no_grad():
        painter.blocks[0].ff.net.bias += by  # type: ignore[union-attr, operator]
    return painter


def bits(world: World) -> list[bytes]:
    return [p.detach().numpy().tobytes() for painter in (world.source, world.target) for p in painter.parameters()]


def test_reuse_on_the_same_model_gains_everything() -> None:
    world, progress = World(near(0)), Counting()
    before = bits(world)
    half = {name: update.scaled(0.5) for name, update in world.style.items()}
    adapters = Adapters(world.style, {"reuse": world.style, "half": half})
    found = compare(world.pair, adapters, SETUP, progress)
    assert world.log == ["+target", "-target", "+source", "-source", "+target", "-target"]
    assert progress.steps == progress.total == world.calls == runs_of(world.pair, adapters, SETUP).all
    assert found.gap == 0
    assert found.gains["reuse"].share == pytest.approx(1, abs=1e-6)
    assert 0.3 < found.gains["half"].share < 0.95
    assert found.gains["reuse"].damage == pytest.approx(0, abs=1e-9)
    assert (found.choice.name, found.verdict) == ("reuse", "reproduces")
    assert bits(world) == before


def test_the_look_of_the_source_is_not_taken_for_the_style() -> None:
    """What turns the target into the source gains by the gap on its pictures, has twice the gap as its look, and is behind."""
    world, by = World(near(0.6)), 0.6
    # Without guidance, so that pictures have the colours that the models know.
    source, target = (nets.opens(painter.model(guidance=1.0)) for painter in (world.source, world.target))
    pair = dataclasses.replace(world.pair, source=source, target=target)
    setup = dataclasses.replace(SETUP, amounts=dataclasses.replace(FEW, held=64, own=32))
    back = Update(bias=torch.full((nets.SHAPE[0],), -by))
    adapters = Adapters(world.style, {"turned": {**world.style, "blocks.0.ff.net": back}, "reuse": world.style})
    found = compare(pair, adapters, setup, Silent())
    turned, reuse = found.gains["turned"], found.gains["reuse"]
    assert 0.05 < found.gap < FAR
    assert turned.share - reuse.share == pytest.approx(found.gap, rel=0.2)
    assert reuse.look == pytest.approx(0, abs=1e-9)
    assert turned.look == pytest.approx(2 * found.gap, rel=0.2)
    assert turned.lead is not None and turned.lead.value < -turned.lead.error
    assert found.choice.name == "reuse"


def test_more_of_the_style_is_ahead_by_what_it_gains() -> None:
    world = World(near(0.6))
    half = {name: update.scaled(0.5) for name, update in world.style.items()}
    found = compare(world.pair, Adapters(world.style, {"whole": world.style, "reuse": half}), SETUP, Silent())
    whole, reuse = found.gains["whole"], found.gains["reuse"]
    assert whole.lead is not None and whole.lead.certain
    assert whole.lead.value == pytest.approx(whole.share - reuse.share, abs=1e-9)
    assert found.choice.name == "whole"


def other_model() -> nets.Painter:
    """A painter of the same colours from other layers, on which reuse is wrong."""
    painter, wide = nets.Painter(0), nets.Painter(7, width=9)
    block, made = painter.blocks[0], wide.blocks[0]
    with torch.no_grad():
        whole = block.ff.net.weight @ block.attn1.to_v.weight  # type: ignore[union-attr, operator]
        made.attn1.to_v.weight.copy_(torch.linalg.pinv(made.ff.net.weight) @ whole)  # type: ignore[union-attr, operator]
        made.ff.net.bias.copy_(block.ff.net.bias)  # type: ignore[union-attr, operator, arg-type]
    return wide


@pytest.mark.parametrize("spaces", [False, True])
def test_between_architectures_an_imitation_is_made(*, spaces: bool) -> None:
    """It reaches the colour; with other latents, in which the pictures are negatives, it learns that from the pictures."""
    target = other_model()
    if spaces:
        with torch.no_grad():
            for layer in (target.blocks[0].ff.net,):  # type: ignore[union-attr]
                layer.weight.neg_()  # type: ignore[union-attr, operator]
                layer.bias.neg_()  # type: ignore[union-attr, operator]
    world, progress = World(target, spaces=spaces), Counting()
    before = bits(world)
    found = compare(world.pair, Adapters(world.style, {}), SETUP, progress, imitating=True)
    runs = runs_of(world.pair, Adapters(world.style, {}), SETUP, imitating=True)
    assert progress.steps == progress.total == runs.all <= FEW.budget
    assert (runs.teacher == 0) == spaces
    # A run with gradients counts three times.
    assert world.calls == runs.all - 2 * runs.steps * FEW.batch
    assert found.gap < 0.1
    assert found.gains["imitate"].share > 0.9
    assert found.gains["imitate"].damage is not None
    assert found.choice.name == "imitate"
    assert found.curve is not None
    assert len(found.curve.losses) == runs.steps
    assert len(found.curve.gains) == 4
    assert found.curve.gains[-1] == found.gains["imitate"].share
    assert found.facts()["training"]["held_out"][-1] == [runs.steps, pytest.approx(found.curve.gains[-1], rel=1e-3)]
    assert bits(world) == before


def far(
    imitating: bool = True, insist: bool = False, adapters: Adapters | None = None
) -> tuple[World, Counting, Evaluation]:
    world, progress = World(near(30.0)), Counting()
    return (
        world,
        progress,
        compare(world.pair, adapters or world.reuse, SETUP, progress, imitating=imitating, insist=insist),
    )


def test_where_the_gap_is_large_reuse_is_kept_and_the_training_is_spared() -> None:
    world, progress, found = far()
    assert found.gap > 2
    assert set(found.gains) == {"reuse"}
    assert (found.choice.name, found.verdict) == ("reuse", "unjudged")
    assert "nothing better is known. Compare pictures." in found.choice.reason
    runs = runs_of(world.pair, world.reuse, SETUP, imitating=True)
    # Neither pictures for it nor what the source predicts of them.
    judged_less = FEW.held * FEW.held_draws + 2 * FEW.own * FEW.own_draws
    assert progress.steps == runs.all - runs.taught - runs.teacher - runs.training - judged_less
    assert "Cannot be judged" in found.text


def test_where_the_gap_is_large_and_reuse_impossible_an_imitation_is_offered() -> None:
    world = World(near(30.0))
    found = compare(world.pair, Adapters(world.style, {}), SETUP, Silent(), imitating=True)
    assert (found.choice.name, found.verdict) == ("imitate", "unjudged")
    assert "brings the look of the source's pictures along" in found.choice.reason
    _, _, insisted = far(insist=True)
    assert set(insisted.gains) == {"reuse", "imitate"}
    assert insisted.choice.name == "reuse"


def test_what_depends_on_the_checkpoints_alone_is_paid_for_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = World(near(0.1), ids=True)
    one = compare(first.pair, first.reuse, SETUP, Counting(), cache=cache)
    second, progress = World(near(0.1), ids=True), Counting()
    again = compare(second.pair, second.reuse, SETUP, progress, cache=cache)
    runs = runs_of(second.pair, second.reuse, SETUP)
    own = FEW.own * FEW.own_draws
    assert progress.steps == progress.total == second.calls
    assert progress.steps == runs.all - runs.target_own - runs.source_own - runs.source_sees - own
    assert second.log == ["+source", "-source", "+target", "-target"]
    assert again.facts() == one.facts()
    # Another seed, other pictures.
    third, progress = World(near(0.1), ids=True), Counting()
    compare(third.pair, third.reuse, dataclasses.replace(SETUP, seed=1), progress, cache=cache)
    assert progress.total == runs.all
    # Without ids nothing is known to belong to them.
    fourth, progress = World(near(0.1)), Counting()
    compare(fourth.pair, fourth.reuse, SETUP, progress, cache=cache)
    assert progress.total == runs.all
    assert set(cache.contents().entries) == {"pictures"}


@pytest.mark.parametrize(("share", "loads"), [(0.1, True), (0.2, True), (0.6, False), (0.95, False)])
def test_one_that_was_stopped_goes_on_where_it_was(tmp_path: Path, share: float, *, loads: bool) -> None:
    """In whatever part it was: what was paid for is not paid for again, and the result is the same."""
    cache, whole = Cache(tmp_path / "cache"), World(near(0.1), ids=True)
    expected = compare(whole.pair, whole.reuse, SETUP, Counting(), imitating=True)
    total = runs_of(whole.pair, whole.reuse, SETUP, imitating=True)
    world, stopped = World(near(0.1), ids=True), Counting(stop=int(share * total.all))
    before = bits(world)
    with pytest.raises(CancelledError):
        compare(world.pair, world.reuse, SETUP, stopped, imitating=True, cache=cache, work="this")
    assert bits(world) == before
    again, rest = World(near(0.1), ids=True), Counting()
    found = compare(again.pair, again.reuse, SETUP, rest, imitating=True, cache=cache, work="this")
    assert rest.steps == rest.total
    # At most a picture, a step of the teacher, some steps of the training, and what the target says of it is made again.
    lost = 2 * FEW.sampling + FEW.batch + 8 * 3 * FEW.batch + total.target_sees + total.candidates + total.held
    assert rest.steps <= total.all - stopped.steps + lost
    assert found.facts() == expected.facts()
    assert ("+source" in again.log) == loads
    forget(cache, "this", FEW, total.steps)
    assert set(cache.contents().entries) == {"pictures"}


def test_an_adapter_that_does_not_fit_and_numbers_that_are_none() -> None:
    world = World(near(0))
    with pytest.raises(MismatchError, match="no module elsewhere"):
        compare(
            world.pair, Adapters(world.style, {"odd": {"elsewhere": next(iter(world.style.values()))}}), SETUP, Silent()
        )
    with torch.no_grad():
        world.source.blocks[0].ff.net.bias.fill_(math.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(NumericError, match="NaN"):
        compare(world.pair, world.reuse, SETUP, Silent())


def test_a_model_without_gradients_is_not_trained() -> None:
    world = World(near(0.1))
    world.target_model.differentiable = False
    found = compare(world.pair, world.reuse, SETUP, Silent(), imitating=True)
    assert set(found.gains) == {"reuse"}
    assert found.notes[0].startswith("imitate was left out: this program runs the model without gradients")


def test_a_lora_of_other_roles_is_not_trained() -> None:
    world = World(near(0.1))
    pair = dataclasses.replace(world.pair, target_modules=())
    found = compare(pair, world.reuse, SETUP, Silent(), imitating=True)
    assert found.notes[0].startswith("imitate was left out: the target has no module")


def full(after: int) -> Callable[..., None]:
    calls = []

    def hook(*_: object) -> None:
        calls.append(1)
        if torch.is_grad_enabled() and len(calls) >= after:
            raise torch.cuda.OutOfMemoryError("full")

    return hook


def test_too_little_memory_is_said() -> None:
    world = World(near(0.1))
    before = bits(world)
    world.target.register_forward_pre_hook(full(0))
    found = compare(world.pair, world.reuse, SETUP, Silent(), imitating=True)
    assert set(found.gains) == {"reuse"}
    assert "the GPU's memory is too small for it at this size of pictures" in found.notes[0]
    assert bits(world) == before


def test_the_default_budget_holds_and_more_is_no_longer_than_it_helps() -> None:
    for candidates in (0, 1, 3):
        for one_space in (True, False):
            runs = planned(Amounts(), candidates, imitating=True, one_space=one_space)
            assert 4800 < runs.all <= 5000
            assert runs.steps > 80
    assert planned(Amounts(budget=100), 1, imitating=True).steps == 0
    assert planned(Amounts(budget=10**6), 1, imitating=True).steps == 400


def test_prompts_are_shared_out() -> None:
    shared = SETUP.shared_out()
    assert shared.held == ("red styled", "blue styled") * 2
    assert shared.taught == ("red styled", "blue styled") * 2 + ("red", "blue")
    assert shared.own == ("red", "blue")
