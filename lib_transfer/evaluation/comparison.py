"""Run both models, one after the other, and find out what adapters are worth; make better ones where that is asked for.

The source makes the inputs and moves on them, then the target runs. What passes between them is small and in memory, or on disk:
the models are never in memory together, and each is brought there once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib_transfer.evaluation.improvements import possible
from lib_transfer.evaluation.improvements.improvement import GIVEN, Evidence, Improvement, Scale, Start, Target
from lib_transfer.evaluation.movement import TOO_FAR, choose, distance_of, match, predictions
from lib_transfer.evaluation.observation import Observation, in_latents_of, observe
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.evaluation.runs import Runs, planned
from lib_transfer.evaluation.streams import Streams
from lib_transfer.models.model import Model
from lib_transfer.models.sampling import STEPS
from lib_transfer.progress import Progress
from lib_transfer.update import Updates

Open = Callable[[], AbstractContextManager[Model]]
"""Brings a model into memory for as long as the context lasts."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two bases that can be brought into memory, and what is known of the target before it is.

    Attributes:
        source, target: bring the models into memory.
        latent_space: the target's latent space.
        groups: the group of every module of the target, by canonical name.
        blocks: the number of the target's transformer blocks.
    """

    source: Open
    target: Open
    latent_space: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    blocks: int = 0


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters that are compared.

    Attributes:
        original: the adapter on the source, by canonical name of its modules.
        candidates: adapters on the target, by name.
        reuse: the name of the candidate that is the original as it is; None where the shapes do not allow it.
        given: the name of the candidate that improvements begin with; None where there is nothing to begin with.
    """

    original: Updates
    candidates: Mapping[str, Updates]
    reuse: str | None = None
    given: str | None = None


@dataclass(frozen=True)
class Setup:
    """The inputs that the models are run on.

    Attributes:
        prompts: the prompts, taken in turn; the adapter's trigger words belong in them.
        inputs: the number of inputs that matches are taken on.
        fitting: the number of further inputs, which improvements are fitted to.
        seed: the seed of all noise.
        steps: the steps of the sampling of each input.
    """

    prompts: Sequence[str]
    inputs: int = 8
    fitting: int = 8
    seed: int = 0
    steps: int = STEPS


def compare(
    pair: Pair,
    adapters: Adapters,
    setup: Setup,
    progress: Progress,
    improvements: Sequence[Improvement] = (),
    *,
    insist: bool = False,
) -> Evaluation:
    """Find out what adapters are worth on the target, as reproductions of the original on the source.

    Args:
        pair: the models; each is brought into memory once, and never both.
        adapters: the original, and what is compared with it.
        setup: the inputs that the models are run on.
        progress: gets a step for every run of a model; it is asked before each whether to stop.
        improvements: ways to make better adapters, which are compared too.
        insist: whether to try them although the bases are too far apart for it to mean anything.

    Raises:
        CancelledError: the person asked to stop; every model is as it was.
        MismatchError: an adapter does not fit the model.
        NumericError: a model gives NaN or infinity.
    """
    runs = runs_of(pair, adapters, setup, improvements)
    progress.start(runs.all, "running the models")
    chosen = possible(improvements, given=adapters.given is not None, blocks=pair.blocks)
    with tempfile.TemporaryDirectory(prefix="transfer-lora-") as folder:
        comparison = _Comparison(pair, adapters, setup, chosen, Path(folder), progress)
        # A function of its own, so that no variable keeps the source in memory while the target is there.
        observation, streams = comparison.observed()
        with pair.target() as target:
            return comparison.judged(target, observation, streams, insist=insist)


def runs_of(pair: Pair, adapters: Adapters, setup: Setup, improvements: Sequence[Improvement] = ()) -> Runs:
    """How often :func:`compare` runs the models, at most."""
    given = adapters.given
    changed = () if given is None else adapters.candidates[given]
    scale = Scale(setup.fitting, len({pair.groups.get(name) for name in changed}), pair.blocks)
    chosen = possible(improvements, given=given is not None, blocks=pair.blocks)
    return planned(setup.inputs, setup.steps, len(adapters.candidates), chosen, scale)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """One comparison; the attributes are the arguments of :func:`compare`, and a folder for what is kept on disk."""

    pair: Pair
    adapters: Adapters
    setup: Setup
    improvements: Sequence[Improvement]
    folder: Path
    progress: Progress

    def observed(self) -> tuple[Observation, Streams | None]:
        """What the source makes and does, and its residual streams where an improvement needs them."""
        setup = self.setup
        number = setup.inputs + (setup.fitting if self.improvements else 0)
        prompts = [setup.prompts[place % len(setup.prompts)] for place in range(number)]
        with self.pair.source() as source:
            kept = any(each.needs_streams for each in self.improvements)
            streams = Streams(self.folder / "source", source.shape) if kept else None
            observation = observe(
                source, self.adapters.original, prompts, setup.seed, self.pair.latent_space, self.progress,
                steps=setup.steps, streams=streams,
            )  # fmt: skip
        return observation, streams

    def judged(self, target: Model, observation: Observation, streams: Streams | None, *, insist: bool) -> Evaluation:
        """The evaluation of every adapter, and of those that are made, with the target in memory."""
        here = in_latents_of(observation, target)
        held, fitted = split(len(here.inputs), self.setup.inputs)
        without = predictions(target, here.inputs, self.progress, "target, without")
        distance = distance_of(without - here.inputs.noise, here.missed, here.movement)
        made: dict[str, Updates] = {}
        notes: list[str] = []
        if fitted and (insist or distance <= TOO_FAR):
            evidence = Evidence(
                here.inputs.only(fitted),
                here.movement[fitted],
                without[fitted],
                streams,
                fitted,
                self.folder / "target",
            )
            made, notes = self._improved(Target(target, self.pair.groups), evidence)
        updates = {**self.adapters.candidates, **made}
        inputs, wanted, base = here.inputs.only(held), here.movement[held], without[held]
        matches = {
            name: match(predictions(target, inputs, self.progress, f"target, {name}", it) - base, wanted)
            for name, it in updates.items()
        }
        choice = choose(matches, self.adapters.reuse, distance)
        return Evaluation(matches, updates, distance, choice, tuple(notes))

    def _improved(self, target: Target, evidence: Evidence) -> tuple[dict[str, Updates], list[str]]:
        """The adapters that the improvements make, by name, and why some of them make none."""
        given = self.adapters.given
        there = {} if given is None else {GIVEN: self.adapters.candidates[given]}
        made: dict[str, Updates] = {}
        notes = []
        for each in self.improvements:
            start = next((name for name in each.starts if name in there), "")
            if each.starts and not start:
                # What it would have begun with was left out, and a note says why.
                continue
            if each.needs_gradients and not target.model.differentiable:
                notes.append(f"{each.name} was left out: this program runs the model without gradients.")
                continue
            try:
                updates = each.improve(target, evidence, Start(start, there.get(start, {})), self.progress)
            except torch.cuda.OutOfMemoryError:
                notes.append(
                    f"{each.name} was left out: the GPU's memory is too small for it at this size of pictures."
                )
            else:
                made[each.name] = there[each.name] = updates
        return made, notes


def split(inputs: int, held_out: int) -> tuple[list[int], list[int]]:
    """The numbers of the inputs that matches are taken on, and of those that are fitted to; both spread over all."""
    if held_out >= inputs:
        return list(range(inputs)), []
    held = sorted({int((place + 0.5) * inputs / held_out) for place in range(held_out)})
    return held, [place for place in range(inputs) if place not in held]
