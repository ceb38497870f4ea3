"""Run both models, one after the other, and find out what transferred adapters are worth; make better ones where asked.

Order: the target makes the inputs, then the source runs, then the target. What passes between them is small and in memory, or
on disk; the models are never in memory together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib_transfer.linalg.factors import Factors, balanced
from lib_transfer.linalg.factors import add as plus
from lib_transfer.progress import Progress
from lib_transfer.running.apply import Change, Changes
from lib_transfer.running.inputs import Inputs
from lib_transfer.running.model import Model
from lib_transfer.running.sampling import STEPS
from lib_transfer.running.sampling import runs as sampling_runs
from lib_transfer.strategies.choice import Choice, choose
from lib_transfer.strategies.movement import Match, match, predictions, subset
from lib_transfer.strategies.observation import Questions, answer, ask
from lib_transfer.strategies.pursuit import Pursuit, pursue
from lib_transfer.strategies.pursuit import runs as pursuit_runs
from lib_transfer.strategies.reconstruction import reconstruct
from lib_transfer.strategies.reconstruction import runs as reconstruction_runs
from lib_transfer.strategies.streams import Streams

Open = Callable[[], AbstractContextManager[Model]]
"""Brings a model into memory for as long as the context lasts."""

PURSUIT, RECONSTRUCTION, BOTH = "pursuit", "reconstruct", "pursuit + reconstruct"


@dataclass(frozen=True)
class Plan:
    """What is to be found out.

    Attributes:
        prompts: of the inputs, taken in turn; the adapter's trigger words belong in them.
        number: of inputs that matches are taken on.
        seed: of all noise.
        steps: of the sampling of each input.
        pursue: the adapter whose strengths are fitted; None for none.
        group: of every module of the target that it changes.
        reconstruct: whether an adapter is made from the source's movements; also on top of the pursued one.
        rank: of the reconstruction.
        fitting: inputs more, to fit to, where anything is fitted; matches are always taken on the others.
        latent_space: the source's.
        blocks: how many blocks the target has, for the count of the runs.
    """

    prompts: Sequence[str]
    number: int = 8
    seed: int = 0
    steps: int = STEPS
    pursue: str | None = None
    group: Mapping[str, str] = field(default_factory=dict)
    reconstruct: bool = False
    rank: int = 32
    fitting: int = 8
    latent_space: str = ""
    blocks: int = 0

    @property
    def fits(self) -> bool:
        """Whether anything is fitted."""
        return self.pursue is not None or self.reconstruct

    @property
    def inputs(self) -> int:
        """How many inputs there are in all."""
        return self.number + (self.fitting if self.fits else 0)

    def runs(self, candidates: int) -> tuple[int, int]:
        """How often a model is run to sample, and besides; with 8 inputs and two candidates the latter is 40."""
        fitted = 0
        tried = candidates
        if self.pursue is not None:
            fitted += pursuit_runs(len(set(self.group.values())), self.fitting)
            tried += 1
        if self.reconstruct:
            once = reconstruction_runs(self.blocks, self.fitting)
            fitted += once * (2 if self.pursue is not None else 1)
            tried += 2 if self.pursue is not None else 1
        checked = 2 * self.inputs + self.number * tried + self.inputs
        return sampling_runs(self.inputs, self.steps), checked + fitted


@dataclass(frozen=True, eq=False)
class Study:
    """What was found out.

    Attributes:
        matches: of every adapter on held-out inputs, by name.
        changes: of every adapter, the new ones too.
        pursuit: the strengths, where they were looked for.
        choice: what to keep.
    """

    matches: Mapping[str, Match]
    changes: Mapping[str, Changes]
    pursuit: Pursuit | None
    choice: Choice


def study(
    open_source: Open,
    open_target: Open,
    original: Changes,
    candidates: Mapping[str, Changes],
    plan: Plan,
    progress: Progress,
    *,
    reuse: str | None = None,
) -> Study:
    """Find out what ``candidates`` are worth on the target, as reproductions of ``original`` on the source.

    Args:
        open_source, open_target: bring the models into memory, never both; the target twice.
        original: the adapter, by modules of the source.
        candidates: transferred adapters by modules of the target, by name.
        plan: what to do.
        progress: told of every run of a model, and asked before it whether to stop.
        reuse: which candidate is plain reuse.

    Raises:
        CancelledError: the person asked to stop; every model is as it was.
        MismatchError: an adapter does not fit the model.
        NumericError: a model gives NaN or infinity.
    """
    sampling, rest = plan.runs(len(candidates))
    progress.start(sampling + rest, "running the models")
    with tempfile.TemporaryDirectory(prefix="transfer-lora-") as name:
        folder = Path(name)
        # Each in a function of its own, so that nothing holds on to a model that is to make room.
        questions = _asked(open_target, plan, progress)
        answers = _answered(open_source, questions, original, plan, folder, progress)
        with open_target() as target:
            return _judged(target, answers, candidates, plan, progress, reuse)


def _asked(open_target: Open, plan: Plan, progress: Progress) -> Questions:
    with open_target() as target:
        return ask(target, plan.prompts, plan.inputs, plan.seed, plan.latent_space, progress, steps=plan.steps)


def _answered(
    open_source: Open, questions: Questions, original: Changes, plan: Plan, folder: Path, progress: Progress
) -> _Answers:
    with open_source() as source:
        streams = Streams(folder / "source", source.shape) if plan.reconstruct else None
        wanted = answer(source, questions, original, progress, streams)
    return _Answers(questions.inputs, wanted, streams, folder / "target")


@dataclass(frozen=True, eq=False)
class _Answers:
    """What is known once the source ran: the inputs, how it moved, its streams, and a folder for the target's."""

    inputs: Inputs
    wanted: torch.Tensor
    streams: Streams | None
    folder: Path


def _judged(
    target: Model,
    answers: _Answers,
    candidates: Mapping[str, Changes],
    plan: Plan,
    progress: Progress,
    reuse: str | None,
) -> Study:
    """The rest, with the target in memory."""
    inputs, wanted, streams = answers.inputs, answers.wanted, answers.streams
    held, fitted = split(len(inputs), plan.number)
    without = predictions(target, inputs, progress, "target, without")
    changes = dict(candidates)
    pursuit = None
    to_fit, wanted_to_fit = inputs.only(fitted), subset(wanted, fitted)
    if plan.pursue is not None:
        given = candidates[plan.pursue]
        pursuit = pursue(target, to_fit, wanted_to_fit, subset(without, fitted), given, plan.group, progress)
        factor = {name: pursuit.strengths[plan.group[name]] for name in given}
        changes[PURSUIT] = {name: strengthened(change, factor[name]) for name, change in given.items()}
    if streams is not None:

        def rebuilt(start: Changes) -> dict[str, Change]:
            assert streams is not None
            return reconstruct(target, to_fit, fitted, streams, plan.rank, answers.folder, progress, start)

        changes[RECONSTRUCTION] = rebuilt({})
        if PURSUIT in changes:
            changes[BOTH] = together(changes[PURSUIT], rebuilt(changes[PURSUIT]))
    asked, about, base = inputs.only(held), subset(wanted, held), subset(without, held)
    matches = {
        name: match(predictions(target, asked, progress, f"target, {name}", it) - base, about)
        for name, it in changes.items()
    }
    return Study(matches, changes, pursuit, choose(matches, reuse))


def split(inputs: int, held_out: int) -> tuple[list[int], list[int]]:
    """Which inputs matches are taken on, and which are fitted to; both spread over all."""
    if held_out >= inputs:
        return list(range(inputs)), []
    held = sorted({int((place + 0.5) * inputs / held_out) for place in range(held_out)})
    return held, [place for place in range(inputs) if place not in held]


def strengthened(change: Change, factor: float) -> Change:
    """A change with a factor folded in."""
    weight = change.weight
    if isinstance(weight, Factors):
        weight = Factors(weight.up * factor, weight.down)
    elif weight is not None:
        weight = weight * factor
    return Change(weight, None if change.bias is None else change.bias * factor)


def together(one: Changes, more: Changes) -> dict[str, Change]:
    """Two adapters as one; factors of one module are joined at the sum of their ranks."""
    result = dict(one)
    for name, change in more.items():
        before = result.get(name)
        if before is None:
            result[name] = change
            continue
        assert isinstance(change.weight, Factors)
        if isinstance(before.weight, Factors):
            weight: Factors | torch.Tensor = balanced(plus(before.weight, change.weight))
        elif before.weight is None:
            weight = change.weight
        else:
            product = change.weight.up @ change.weight.down
            weight = before.weight.reshape(product.shape) + product
        result[name] = Change(weight, before.bias)
    return result
