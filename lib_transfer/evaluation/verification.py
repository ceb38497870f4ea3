"""Evaluate adapters that are files: does a transferred LoRA do to the target what the original does to the source?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.output import output_dtype
from lib_transfer.conversion.variants import usual_size
from lib_transfer.errors import RequestError
from lib_transfer.evaluation.choice import IMITATION, REUSE
from lib_transfer.evaluation.comparison import Adapters, Pair, Setup, compare, forget, runs_of
from lib_transfer.evaluation.conditions import Conditions, trained_clip_skip
from lib_transfer.evaluation.files import reused, updates_of, write
from lib_transfer.evaluation.prompts import plain_of, prompts_of
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.evaluation.runs import BUDGET, Amounts, Runs
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.library.base import Base
from lib_transfer.library.destination import need_folder, to_replace
from lib_transfer.library.job import Job
from lib_transfer.models.model import Model
from lib_transfer.models.sampling import STEPS
from lib_transfer.progress import Progress
from lib_transfer.storage.cache import Cache
from lib_transfer.update import Updates

INPUTS = 8
"""The number of held-out pictures that gains are taken on, unless another is asked for."""


class Opener(Protocol):
    """Brings the model of a base into memory for as long as the context lasts."""

    def __call__(self, base: Base, clip_skip: int) -> AbstractContextManager[Model]:
        """The model of ``base``, which encodes prompts with ``clip_skip``, one of those that :meth:`Runner.clip_skip` gives."""


class Runner(Protocol):
    """What runs the models: the networks of diffusers, or a program that has its own."""

    def latent_space(self, base: Base) -> str:
        """The name of the autoencoder that a checkpoint works with.

        Raises:
            UnsupportedError: models of this kind cannot be run.
        """

    def clip_skip(self, base: Base, asked: int | None) -> int:
        """The Clip skip that prompts for a base are encoded with.

        Args:
            base: the checkpoint.
            asked: the wanted one; None for the one that holds without a wish. Checkpoints that were trained with a larger
                one are never run with less.
        """

    def opener(self, size: tuple[int, int]) -> AbstractContextManager[Opener]:
        """A function that brings models into memory.

        Args:
            size: width and height of the pictures in pixels; zeros for the size that each checkpoint was trained on.
        """


@dataclass(frozen=True)
class Question:
    """What is to be found out.

    Attributes:
        original: the file of the adapter that was transferred.
        transferred: the files that were made of it, by name; one called ``reuse`` takes the place of the original as it is, for
            targets whose modules correspond under other names.
        prompts: the prompts of the pictures; none for those that the original's metadata suggest.
        inputs: the number of held-out pictures that gains are taken on.
        size: width and height of the pictures in pixels; 0 for the size that the target was trained on.
        seed: the seed of all noise.
        steps: the steps of the sampling of each picture.
        clip_skip: the Clip skip that prompts are encoded with; 0 for what the original was trained with where its metadata
            say so, else for the runner's own.
    """

    original: Path
    transferred: Mapping[str, Path]
    prompts: Sequence[str] = ()
    inputs: int = INPUTS
    size: int = 0
    seed: int = 0
    steps: int = STEPS
    clip_skip: int = 0


@dataclass(frozen=True)
class Training:
    """An imitation that is wanted.

    Attributes:
        job: the request that it is the result of, and where it is written if it is chosen.
        budget: the most runs that everything may take; see :class:`.Amounts`.
        rank: its rank; 0 for the original's own.
    """

    job: Job
    budget: int = BUDGET
    rank: int = 0


def evaluate(
    question: Question,
    source: Base,
    target: Base,
    runner: Runner,
    progress: Progress,
    *,
    training: Training | None = None,
    announce: Callable[[str], None] = lambda _: None,
    cache: Cache | None = None,
) -> Evaluation:
    """Run both models and find out what transferred adapters are worth; train one that imitates where that is asked for.

    Args:
        question: the adapters and the pictures.
        source, target: the checkpoints.
        runner: what runs them.
        progress: gets a step for every run of a model; it is asked before each whether to stop.
        training: the imitation; None where none is trained.
        announce: called before the models are run, with a sentence that says how many runs it takes.
        cache: where what depends on the checkpoints alone is kept, and what a training that was stopped or killed
            goes on from; nothing is kept when not given.

    Raises:
        CancelledError: the person asked to stop; nothing was written.
        MismatchError: nothing of an adapter fits its base.
        NumericError: a model gives NaN or infinity.
        OutputExistsError, RequestError: the imitation cannot be written there, or the budget is too small for one; said before
            anything is run.
        UnsupportedError: a model cannot be run.
        TransferError: a file cannot be read or written.
    """
    asked = prepared(question, source, target, runner, training)
    announce(asked.runs.text())
    with runner.opener((asked.size, asked.size)) as open_model:
        pair = dataclasses.replace(
            asked.pair,
            source=lambda: open_model(source, asked.conditions.clip_skip[0]),
            target=lambda: open_model(target, asked.conditions.clip_skip[1]),
        )
        found = compare(
            pair, asked.adapters, asked.setup, progress,
            imitating=training is not None, cache=cache, work=asked.work,
        )  # fmt: skip
    found = dataclasses.replace(found, conditions=asked.conditions)
    if training is not None and found.choice.name == IMITATION:
        job = training.job
        strength = job.request.setting("strength")
        updates = {name: update.scaled(strength) for name, update in found.updates[IMITATION].items()}
        path, over = job.output, to_replace(job.output, job.destination) == job.output
        progress.publishing()
        written = write(updates, job.request, asked.metadata, target, found.facts(), path, asked.dtype, overwrite=over)
        found = dataclasses.replace(found, written=written.path)
    if cache is not None:
        if asked.work:
            forget(cache, asked.work, asked.setup.amounts, asked.runs.steps)
        cache.prune()
    return found


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that an evaluation needs, before a model is brought into memory.

    Attributes:
        pair: what is known of both checkpoints; it cannot bring them into memory yet.
        adapters: what is compared.
        setup: the pictures.
        conditions: what the result holds for.
        size: width and height of the pictures in pixels; 0 where each checkpoint works at its own.
        training: the imitation; None where none is trained.
        metadata: the original's.
        dtype: the original's number format.
    """

    pair: Pair
    adapters: Adapters
    setup: Setup
    conditions: Conditions
    size: int
    training: Training | None
    metadata: Mapping[str, str]
    dtype: torch.dtype

    @property
    def runs(self) -> Runs:
        """How often the models are run, at most."""
        return runs_of(self.pair, self.adapters, self.setup, imitating=self.training is not None)

    @property
    def work(self) -> str:
        """What tells this evaluation from all others; empty where nothing is made that could be gone on with."""
        return "" if self.training is None else self.training.job.request.to_json()


def prepared(question: Question, source: Base, target: Base, runner: Runner, training: Training | None) -> Prepared:
    """What :func:`evaluate` begins with: the adapters are read, and what cannot be done is said.

    Raises: as :func:`evaluate`.
    """
    one_space = runner.latent_space(source) == runner.latent_space(target)
    adapters, metadata, dtype = _read(question, source, target, training)
    amounts = Amounts(
        held=question.inputs, sampling=question.steps, budget=BUDGET if training is None else training.budget
    )
    prompts = tuple(question.prompts) or prompts_of(metadata)
    rank = 0 if training is None else training.rank
    setup = Setup(prompts, plain_of(question.prompts, metadata), amounts, question.seed, rank)
    side = (question.size or usual_size(target)) // 8
    asked = question.clip_skip or _trained(metadata, source)
    clip_skip = (runner.clip_skip(source, asked), runner.clip_skip(target, asked))
    # Latents that both models have are of one size; with different autoencoders each works at its own.
    size = 8 * side if question.size or one_space else 0
    sides = (size or usual_size(source), 8 * side)
    ids = (_identity(base, runner, *how) for base, *how in zip((source, target), clip_skip, sides, strict=True))
    pair = Pair(_closed, _closed, source.modules, _written(target), one_space, *ids)
    found = Prepared(
        pair, adapters, setup, Conditions(clip_skip, sides, question.seed, question.inputs, prompts), size, training, metadata,
        dtype,
    )  # fmt: skip
    if training is not None:
        check_place(training.job)
        if found.runs.steps == 0:
            least = found.runs.all
            raise RequestError(
                f"{amounts.budget} runs are too few: {least} are needed before anything is trained.",
                hint="Allow more runs, or take fewer inputs.",
            )
    return found


def _closed() -> AbstractContextManager[Model]:
    raise RuntimeError("Nothing brings the model into memory yet.")


def _written(target: Base) -> tuple[Module, ...]:
    """The target's modules whose outputs the model reads; programs may not even build the others."""
    return tuple(m for m in target.modules if (m.position.part, m.position.block) not in target.architecture.idle)


def _identity(base: Base, runner: Runner, clip_skip: int, side: int) -> str:
    """What tells a checkpoint, and the way that it is run, from all others; empty where its contents are not known."""
    if not base.sha256:
        return ""
    return json.dumps([base.sha256, sorted(set(base.encoders.values())), type(runner).__name__, clip_skip, side])


def _trained(metadata: Mapping[str, str], source: Base) -> int | None:
    """The Clip skip that an adapter was trained with; None where it is not known.

    Trainers for XL write what they were told, but always train with XL's own (sd-scripts, library/sdxl_train_util.py).
    """
    return None if source.architecture.family == "sdxl" else trained_clip_skip(metadata)


def check_place(job: Job) -> None:
    """Raise unless the output of ``job`` can be written: said before hours of running rather than after.

    Raises:
        OutputExistsError: there is a file that may not be replaced.
        RequestError: there is no such folder, or the name is the adapter's own.
    """
    to_replace(job.output, job.destination)
    need_folder(job.output.parent)


def _read(
    question: Question, source: Base, target: Base, training: Training | None
) -> tuple[Adapters, Mapping[str, str], torch.dtype]:
    """The adapters that are compared, reuse among them where shapes allow it; the original's metadata; the number format."""
    with open_adapter(question.original) as adapter:
        original = updates_of(adapter, source)
        wanted = None if training is None else training.job.request.setting("dtype")
        metadata, dtype = dict(adapter.metadata), output_dtype(wanted, adapter)
    candidates: dict[str, Updates] = {}
    for name, path in question.transferred.items():
        with open_adapter(path) as adapter:
            candidates[name] = updates_of(adapter, target)
    again = {} if REUSE in candidates else reused(original, source, target)
    return Adapters(original, {**candidates, REUSE: again} if again else candidates), metadata, dtype
