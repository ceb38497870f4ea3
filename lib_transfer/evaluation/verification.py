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

from lib_transfer.conversion.output import output_dtype
from lib_transfer.conversion.variants import usual_size
from lib_transfer.evaluation.comparison import Adapters, Pair, Setup, compare, runs_of
from lib_transfer.evaluation.conditions import Conditions, trained_clip_skip
from lib_transfer.evaluation.files import reused, updates_of, write
from lib_transfer.evaluation.improvements import improvements
from lib_transfer.evaluation.improvements.improvement import groups
from lib_transfer.evaluation.improvements.reconstruction import RANK
from lib_transfer.evaluation.prompts import prompts_of
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.library.base import Base
from lib_transfer.library.destination import need_folder, to_replace
from lib_transfer.library.job import Job
from lib_transfer.methods import Value
from lib_transfer.models.model import Model
from lib_transfer.models.sampling import STEPS
from lib_transfer.progress import Progress
from lib_transfer.update import Updates

REUSE = "reuse"
"""The name of the original as it is, on the target."""

METHOD = "auto"
"""What stands for the method in the request of an improved adapter."""

INPUTS = 8


class Opener(Protocol):
    """Brings the model of a base into memory for as long as the context lasts."""

    def __call__(self, base: Base, clip_skip: int) -> AbstractContextManager[Model]:
        """The model of ``base``, which encodes prompts with ``clip_skip``, one of those that :meth:`Runner.clip_skip` gives."""


class Runner(Protocol):
    """What runs the models: networks of this package, or a program that has its own."""

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
        transferred: the files that were made of it, by name.
        prompts: the prompts of the inputs; none for those that the original's metadata suggest.
        inputs: the number of inputs that matches are taken on.
        size: width and height of the pictures in pixels; 0 for the size that the target was trained on.
        seed: the seed of all noise.
        steps: the steps of the sampling of each input.
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
class Better:
    """Where a better adapter goes, if one is looked for.

    Attributes:
        transfer: the transfer that it is compared with, and the destination of the better adapter.
        rank: the rank of a reconstruction.
        only_new: whether nothing is written where the choice is one of the files that there are already, or reuse.
    """

    transfer: Job
    rank: int = RANK
    only_new: bool = False


def evaluate(
    question: Question,
    source: Base,
    target: Base,
    runner: Runner,
    progress: Progress,
    *,
    better: Better | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Run both models and find out what transferred adapters are worth; make a better one where that is asked for.

    Args:
        question: the adapters and the inputs.
        source, target: the checkpoints.
        runner: what runs them.
        progress: gets a step for every run of a model; it is asked before each whether to stop.
        better: where the best adapter is written; None where no better ones are looked for.
        announce: called before the models are run, with a sentence that says how many runs it takes.

    Raises:
        CancelledError: the person asked to stop; nothing was written.
        MismatchError: nothing of an adapter fits its base.
        NumericError: a model gives NaN or infinity.
        OutputExistsError, RequestError: the better adapter cannot be written there; said before anything is run.
        UnsupportedError: a model cannot be run.
        TransferError: a file cannot be read or written.
    """
    latent_space, target_space = (runner.latent_space(base) for base in (source, target))
    adapters, metadata, dtype = _read(question, source, target)
    prompts = tuple(question.prompts) or prompts_of(metadata)
    setup = Setup(prompts, question.inputs, question.inputs, question.seed, question.steps)
    side = (question.size or usual_size(target)) // 8
    asked = question.clip_skip or _trained(metadata, source)
    clip_skip = (runner.clip_skip(source, asked), runner.clip_skip(target, asked))
    job = None if better is None else job_of(better, adapters, setup, side, clip_skip)
    if job is not None:
        check_place(job)
    listed = () if better is None else improvements(better.rank)
    # Latents that both models have are of one size; with different autoencoders each works at its own.
    size = 8 * side if question.size or latent_space == target_space else 0
    sides = (size or usual_size(source), 8 * side)
    conditions = Conditions(clip_skip, sides, question.seed, question.inputs, prompts)
    with runner.opener((size, size)) as open_model:
        blocks = {module.position.unit for module in target.modules if module.position.role.startswith("attn1.")}
        pair = Pair(
            lambda: open_model(source, clip_skip[0]),
            lambda: open_model(target, clip_skip[1]),
            target_space,
            groups(target.modules),
            len(blocks),
        )
        announce(runs_of(pair, adapters, setup, listed).text())
        found = dataclasses.replace(compare(pair, adapters, setup, progress, listed), conditions=conditions)
    name = found.choice.name
    if better is None or job is None or name is None or (better.only_new and name in adapters.candidates):
        return found
    path, updates = job.output, found.updates[name]
    over = to_replace(path, job.destination) == path
    written = write(updates, job.request, metadata, target, found.facts(), path, dtype, overwrite=over)
    return dataclasses.replace(found, written=written.path)


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


def job_of(better: Better, adapters: Adapters, setup: Setup, side: int, clip_skip: tuple[int, int]) -> Job:
    """The job of an improved adapter, whose request holds everything that the result depends on.

    Args:
        better: the transfer that it is compared with, and the rank of a reconstruction.
        adapters: the adapters that are compared.
        setup: the inputs.
        side: width and height of the target's latents.
        clip_skip: the Clip skip on the source and on the target.
    """
    settings: dict[str, Value] = {
        **dict(better.transfer.request.settings),
        "clip_skip": ", ".join(map(str, clip_skip)),
        "from": adapters.given or "",
        "inputs": setup.inputs,
        "latents": side,
        "prompts": json.dumps(list(setup.prompts)),
        "reconstruction_rank": better.rank,
        "seed": setup.seed,
    }
    request = dataclasses.replace(better.transfer.request, method=METHOD, settings=tuple(sorted(settings.items())))
    return dataclasses.replace(better.transfer, request=request)


def _read(question: Question, source: Base, target: Base) -> tuple[Adapters, Mapping[str, str], torch.dtype]:
    """The adapters that are compared, reuse among them where the shapes allow it; the original's metadata and number format."""
    with open_adapter(question.original) as adapter:
        original = updates_of(adapter, source)
        metadata, dtype = dict(adapter.metadata), output_dtype(None, adapter)
    candidates: dict[str, Updates] = {}
    for name, path in question.transferred.items():
        with open_adapter(path) as adapter:
            candidates[name] = updates_of(adapter, target)
    again = reused(original, source, target)
    if again:
        adapters = Adapters(original, {**candidates, REUSE: again}, REUSE, given=REUSE)
    else:
        adapters = Adapters(original, candidates, given=next(iter(candidates), None))
    return adapters, metadata, dtype
