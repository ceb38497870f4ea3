"""Run both models, one after the other, and find out what transferred adapters are worth; make better ones where asked.

Order: the source makes the inputs and moves on them, then the target runs. What passes between them is small and in memory, or on
disk; the models are never in memory together, and each is brought there once.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib_transfer.evaluation.choice import TOO_FAR, Choice, choose
from lib_transfer.evaluation.distillation import distil, halfway
from lib_transfer.evaluation.distillation import runs as distillation_runs
from lib_transfer.evaluation.movement import Match, apart, match, predictions, subset
from lib_transfer.evaluation.observation import Observation, brought, observe
from lib_transfer.evaluation.pursuit import Pursuit, pursue
from lib_transfer.evaluation.pursuit import runs as pursuit_runs
from lib_transfer.evaluation.reconstruction import reconstruct
from lib_transfer.evaluation.reconstruction import runs as reconstruction_runs
from lib_transfer.evaluation.streams import Streams
from lib_transfer.linalg.factors import Factors, balanced
from lib_transfer.linalg.factors import add as plus
from lib_transfer.models.apply import Change, Changes
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model
from lib_transfer.models.sampling import STEPS
from lib_transfer.models.sampling import runs as sampling_runs
from lib_transfer.progress import Progress

SCHEMA = 1
"""Of :meth:`Study.facts`."""

Open = Callable[[], AbstractContextManager[Model]]
"""Brings a model into memory for as long as the context lasts."""

PURSUIT, RECONSTRUCTION, BOTH, DISTILLATION = "pursuit", "reconstruct", "pursuit + reconstruct", "distil"


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
        distil: whether the pursued one, or else the reconstruction, is trained further.
        rank: of the reconstruction.
        fitting: inputs more, to fit to, where anything is fitted; matches are always taken on the others.
        latent_space: the target's.
        blocks: how many blocks the target has, for the count of the runs.
        insist: whether to fit although the bases are too far apart for it to mean anything.
    """

    prompts: Sequence[str]
    number: int = 8
    seed: int = 0
    steps: int = STEPS
    pursue: str | None = None
    group: Mapping[str, str] = field(default_factory=dict)
    reconstruct: bool = False
    distil: bool = False
    rank: int = 32
    fitting: int = 8
    latent_space: str = ""
    blocks: int = 0
    insist: bool = False

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
        if self.distil and self.fits:
            fitted += distillation_runs(self.fitting)
            tried += 1
        checked = 2 * self.inputs + self.number * tried + self.inputs
        return sampling_runs(self.inputs, self.steps), checked + fitted


@dataclass(frozen=True, eq=False)
class Study:
    """What was found out.

    Attributes:
        matches: of every adapter on held-out inputs, by name.
        changes: of every adapter, the new ones too.
        pursuit: the strengths, where they were looked for.
        distance: of the bases from each other, in squares of the source's movement; see :func:`apart`.
        choice: what to keep.
        notes: what was left out and why, a sentence each.
    """

    matches: Mapping[str, Match]
    changes: Mapping[str, Changes]
    pursuit: Pursuit | None
    distance: float
    choice: Choice
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Everything in it but the adapters themselves, as JSON holds it (which knows no infinity: None there)."""
        matches = {
            name: {"explained": _number(match.explained), "each": [*map(_number, match.each)], "verdict": match.verdict}
            for name, match in self.matches.items()
        }
        return {
            "schema": SCHEMA,
            "matches": matches,
            "distance": _number(self.distance),
            "best": self.choice.name,
            "reason": self.choice.reason,
            "notes": list(self.notes),
        }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
        open_source, open_target: bring the models into memory, once each and never both.
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
        # A function of its own, so that nothing holds on to a model that is to make room.
        observation, streams = _observed(open_source, original, plan, folder, progress)
        with open_target() as target:
            return _judged(target, observation, streams, candidates, plan, folder, progress, reuse)


def _observed(
    open_source: Open, original: Changes, plan: Plan, folder: Path, progress: Progress
) -> tuple[Observation, Streams | None]:
    with open_source() as source:
        streams = Streams(folder / "source", source.shape) if plan.reconstruct else None
        seen = observe(
            source, original, plan.prompts, plan.inputs, plan.seed, plan.latent_space, progress,
            steps=plan.steps, streams=streams,
        )  # fmt: skip
        return seen, streams


def _judged(
    target: Model,
    observation: Observation,
    streams: Streams | None,
    candidates: Mapping[str, Changes],
    plan: Plan,
    folder: Path,
    progress: Progress,
    reuse: str | None,
) -> Study:
    """The rest, with the target in memory."""
    here = brought(observation, target)
    inputs, wanted = here.inputs, here.movement
    held, fitted = split(len(inputs), plan.number)
    without = predictions(target, inputs, progress, "target, without")
    distance = apart(without - inputs.noise, here.missed, wanted)
    to_fit = _ToFit(inputs.only(fitted), fitted, subset(wanted, fitted), subset(without, fitted))
    fits = _Fits({}, None, ())
    if plan.fits and (plan.insist or distance <= TOO_FAR):
        fits = _fitted(target, to_fit, streams, candidates, plan, folder, progress)
    changes = {**candidates, **fits.changes}
    asked, about, base = inputs.only(held), subset(wanted, held), subset(without, held)
    matches = {
        name: match(predictions(target, asked, progress, f"target, {name}", it) - base, about)
        for name, it in changes.items()
    }
    return Study(matches, changes, fits.pursuit, distance, choose(matches, reuse, distance), fits.notes)


@dataclass(frozen=True, eq=False)
class _ToFit:
    """What is fitted to: inputs, their numbers, how the source moves on them, what the target says without an adapter."""

    inputs: Inputs
    numbers: list[int]
    wanted: torch.Tensor
    without: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Fits:
    """What was made: by name, the strengths, and what was left out."""

    changes: Mapping[str, Changes]
    pursuit: Pursuit | None
    notes: tuple[str, ...]


def _fitted(
    target: Model,
    to: _ToFit,
    streams: Streams | None,
    candidates: Mapping[str, Changes],
    plan: Plan,
    folder: Path,
    progress: Progress,
) -> _Fits:
    changes: dict[str, Changes] = {}
    pursuit = None
    if plan.pursue is not None:
        given = candidates[plan.pursue]
        pursuit = pursue(target, to.inputs, to.wanted, to.without, given, plan.group, progress)
        factor = {name: pursuit.strengths[plan.group[name]] for name in given}
        changes[PURSUIT] = {name: strengthened(change, factor[name]) for name, change in given.items()}
    if streams is not None:

        def rebuilt(start: Changes) -> dict[str, Change]:
            assert streams is not None
            return reconstruct(target, to.inputs, to.numbers, streams, plan.rank, folder / "target", progress, start)

        changes[RECONSTRUCTION] = rebuilt({})
        if PURSUIT in changes:
            changes[BOTH] = together(changes[PURSUIT], rebuilt(changes[PURSUIT]))
    notes: list[str] = []
    if plan.distil and not target.differentiable:
        notes.append("Distillation was left out: this program runs the model without a way back for gradients.")
    elif plan.distil:
        start = changes.get(PURSUIT) or changes[RECONSTRUCTION]
        try:
            trained = distil(target, to.inputs, to.wanted, to.without, start, progress)
            # A reconstruction was fitted to the same inputs: there is nothing else in it to be kept.
            changes[DISTILLATION] = halfway(start, trained) if PURSUIT in changes else trained
        except torch.cuda.OutOfMemoryError:
            notes.append("Distillation was left out: the GPU's memory is too small for it at this size of pictures.")
    return _Fits(changes, pursuit, tuple(notes))


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
