"""The work of a verification: both checkpoints are run, one after the other, within the program."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import CancelledError, RequestError, TransferError
from lib_transfer.evaluation import Evaluation, Question, evaluate
from lib_transfer.evaluation.result import record_of
from lib_transfer.library.base import Base, open_hashed
from lib_transfer.library.checkpoints import Checkpoint, find
from lib_transfer.library.index import FileIndex
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.transfer.work import files_of, runtime
from lib_transfer.webui.verify.job import VerifyJob
from lib_transfer.webui.verify.kept import Verified


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        lora: the name of the LoRA.
        original, transferred: the file of the LoRA, and of what was made of it.
        source, target: the checkpoints.
    """

    lora: str
    original: Path
    transferred: Path
    source: Checkpoint
    target: Checkpoint


def subject_of(outcome: Outcome | None, host: Host, index: FileIndex) -> Subject:
    """The files and checkpoints to verify, from the outcome of a transfer.

    Raises:
        RequestError: nothing was written, or a file or checkpoint is not there any more; the message says which.
    """
    if outcome is None or outcome.path is None:
        raise RequestError("No transferred LoRA is shown.", hint="Press Transfer first; what it wrote can be verified.")
    original = files.adapters(host.adapter_folders()).get(outcome.name)
    if original is None or not outcome.path.is_file():
        raise RequestError(f"The LoRA {outcome.name} or what was made of it is not in the LoRA folder any more.")
    checkpoints = host.checkpoints()
    facts = index.adapter(original)
    source = checkpoints.get(outcome.source)
    if source is None and facts is not None:
        source = find(facts, checkpoints.values()).checkpoint
    target = checkpoints.get(outcome.target)
    if source is None:
        raise RequestError(
            f"The checkpoint that {outcome.name} was trained on is not known.",
            hint="Choose it under Source checkpoint, and transfer with a method that uses it.",
        )
    if target is None:
        raise RequestError(f"The checkpoint {outcome.target} is not in the list any more.")
    return Subject(outcome.name, original, outcome.path, source, target)


@dataclass(frozen=True)
class Verification:
    """One verification, as a job's work.

    Attributes:
        subject: what is verified.
        prompts: the prompts of the inputs; none for those that the LoRA's metadata suggest.
        number: the number of inputs.
        size: width and height of the pictures in pixels; 0 for the size that the target was trained on.
        clip_skip: the Clip skip; 0 for what the LoRA was trained with, else the program's own.
        host: the program.
        took: is told the seconds that a run of a model took.
    """

    subject: Subject
    prompts: tuple[str, ...]
    number: int
    size: int
    clip_skip: int
    host: Host
    took: Callable[[float], None]

    def __call__(self, job: VerifyJob) -> None:
        """Verify.

        Raises:
            CancelledError: the job was stopped.
        """
        job.begin(0)
        began = time.monotonic()
        try:
            found = self._evaluated(job)
            # Only now is nothing of the transferred file held any more: Windows replaces no file that is mapped.
            advice = " ".join((found.advice, *self._noted(found)))
            record = dataclasses.replace(record_of(found), advice=advice)
            job.verified = Verified(self.subject.lora, self.subject.target.name, record)
        except CancelledError:
            raise
        except TransferError as error:
            job.problem = (error.message, error.hint)
        if job.verified is not None and job.runs:
            self.took((time.monotonic() - began) / job.runs)

    def _evaluated(self, job: VerifyJob) -> Evaluation:
        subject, models = self.subject, self.host.models
        assert models is not None
        transferred = {subject.transferred.stem: subject.transferred}
        question = Question(
            subject.original, transferred, self.prompts, self.number, self.size, clip_skip=self.clip_skip
        )
        with self._base(subject.source, job) as source, self._base(subject.target, job) as target:
            cache = runtime(self.host).cache
            return evaluate(question, source, target, models, job, cache=cache)

    def _noted(self, found: Evaluation) -> tuple[str, ...]:
        """Put the result into the transferred LoRA's metadata; it is not lost where that cannot be done."""
        problem: tuple[str, ...] = ()
        try:
            found.note_in(self.subject.transferred)
        except TransferError as error:
            problem = (f"The result could not be put into the LoRA's metadata: {error.message}",)
        if not problem:
            self.host.adapters_changed()
        return problem

    def _base(self, checkpoint: Checkpoint, job: VerifyJob) -> AbstractContextManager[Base]:
        return open_hashed(files_of(self.host, checkpoint), runtime(self.host).hashes, job)
