"""The method ``auto``: one LoRA from one checkpoint to another by running both, as reuse or as an imitation, whichever is better.

:func:`improved` writes exactly one file, or says why it writes none; :func:`planned_runs` says before what it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lib_transfer.evaluation.result import Evaluation
from lib_transfer.evaluation.runs import BUDGET, Runs
from lib_transfer.evaluation.verification import INPUTS, Better, Question, Runner, evaluate, prepared
from lib_transfer.library.base import Base
from lib_transfer.library.job import Job
from lib_transfer.models.sampling import STEPS
from lib_transfer.progress import Progress
from lib_transfer.storage.cache import Cache


@dataclass(frozen=True)
class Wishes:
    """What may be asked for; all of it is part of the request of the output.

    Attributes:
        prompts: the prompts of the pictures; none for those that the LoRA's metadata suggest.
        inputs: the number of held-out pictures that gains are taken on.
        size: width and height of the pictures in pixels; 0 for the size that the target was trained on.
        seed: the seed of all noise.
        steps: the steps of the sampling of each picture.
        clip_skip: the Clip skip; 0 for what the LoRA was trained with where its metadata say so, else for the runner's own.
        budget: the most runs of the models; one with gradients counts as three.
        rank: the rank of an imitation; 0 for the LoRA's own.
    """

    prompts: Sequence[str] = ()
    inputs: int = INPUTS
    size: int = 0
    seed: int = 0
    steps: int = STEPS
    clip_skip: int = 0
    budget: int = BUDGET
    rank: int = 0


NONE = Wishes()
"""No wishes: everything as it is usually."""


def improved(
    job: Job,
    source: Base,
    target: Base,
    runner: Runner,
    progress: Progress,
    *,
    wishes: Wishes = NONE,
    cache: Cache | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Write the better of reuse and imitation for the target; its metadata tell everything that was found out.

    Args:
        job: the transfer: its files, and its destination. Of its request the method's settings become a part of the output's.
        source, target: the checkpoints, opened.
        runner: what runs them.
        progress: gets a step for every run of a model; it is asked before each whether to stop.
        wishes: what else is asked for.
        cache: where what depends on the checkpoints alone is kept, and what a LoRA that was stopped or killed goes on from.
        announce: called before the models are run, with a sentence that says how many runs it takes; and again with the time
            that it takes, as soon as that of a run is known.

    Returns:
        What was found; ``written`` is the file, or None where neither transfers, and ``choice.reason`` says why.

    Raises: as :func:`.evaluate`.
    """
    question, better = _asked(job, wishes)
    runs = prepared(question, source, target, runner, better).runs
    timed = Timed(progress, lambda seconds: announce(runs.text(seconds)))
    return evaluate(question, source, target, runner, timed, better=better, announce=announce, cache=cache)


def planned_runs(job: Job, source: Base, target: Base, runner: Runner, wishes: Wishes = NONE) -> Runs:
    """How often :func:`improved` runs the models, at most; nothing is run, and what is kept in the cache takes none.

    Raises: as :func:`.evaluate`, where it cannot be done at all.
    """
    question, better = _asked(job, wishes)
    return prepared(question, source, target, runner, better).runs


def _asked(job: Job, wishes: Wishes) -> tuple[Question, Better]:
    question = Question(
        job.files.adapter, {}, wishes.prompts, wishes.inputs, wishes.size, wishes.seed, wishes.steps, wishes.clip_skip
    )
    return question, Better(job, wishes.budget, wishes.rank)


class Timed:
    """A progress that tells once how long a run takes: the time from the second step to the fourth, halved.

    The first run is left out, because programs do much in it that they do only once.
    """

    def __init__(self, progress: Progress, tell: Callable[[float], None]) -> None:
        self._progress, self._tell = progress, tell
        self._steps, self._began = 0, 0.0

    def start(self, total: int, what: str) -> None:
        """As :class:`Progress` says."""
        self._progress.start(total, what)

    def step(self, what: str) -> None:
        """As :class:`Progress` says."""
        self._steps += 1
        if self._steps == 2:
            self._began = time.monotonic()
        elif self._steps == 4:
            self._tell((time.monotonic() - self._began) / 2)
        self._progress.step(what)

    def reading(self, files: str, done: int, total: int) -> None:
        """As :class:`Progress` says."""
        self._progress.reading(files, done, total)

    def publishing(self) -> None:
        """As :class:`Progress` says."""
        self._progress.publishing()

    def cancelled(self) -> bool:
        """As :class:`Progress` says."""
        return self._progress.cancelled()
