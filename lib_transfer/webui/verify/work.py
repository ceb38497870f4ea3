"""The work of a verification: both checkpoints are run, one after the other, within the program."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.engine.outcome import Outcome
from lib_transfer.engine.source_checkpoint import Checkpoint, find
from lib_transfer.errors import CancelledError, RequestError, TransferError
from lib_transfer.webui import files
from lib_transfer.webui.host import Host
from lib_transfer.webui.verify.job import Verified, VerifyJob

if TYPE_CHECKING:
    from lib_transfer.engine.base import Base
    from lib_transfer.engine.file_index import FileIndex


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        lora: the name of the LoRA.
        original, transferred: the files.
        source, target: the checkpoints.
    """

    lora: str
    original: Path
    transferred: Path
    source: Checkpoint
    target: Checkpoint


def subject_of(outcome: Outcome | None, host: Host, index: FileIndex) -> Subject:
    """What the outcome of a transfer lets be verified.

    Raises:
        RequestError: nothing was written, or a file or checkpoint is not there any more; the message says which.
    """
    if outcome is None or outcome.path is None:
        raise RequestError("No transferred LoRA is shown.", hint="Press Transfer first; what it wrote can be verified.")
    original = files.adapters(host.adapter_folders()).get(outcome.name)
    if original is None or not outcome.path.is_file():
        raise RequestError(f"The LoRA {outcome.name} or its copy is not in the LoRA folder any more.")
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
        prompts: of the inputs; none for those that the LoRA's metadata suggest.
        number: of inputs.
        size: width and height of pictures; zeros for what the checkpoints were trained on.
        host: the program.
        took: is told the seconds that a run of a model took.
    """

    subject: Subject
    prompts: tuple[str, ...]
    number: int
    size: tuple[int, int]
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
            job.verified = self._verified(job)
        except CancelledError:
            raise
        except TransferError as error:
            job.problem = (error.message, error.hint)
        if job.verified is not None and job.runs:
            self.took((time.monotonic() - began) / job.runs)

    def _verified(self, job: VerifyJob) -> Verified:
        from lib_transfer.strategies.verification import Wanted, verify  # noqa: PLC0415 - torch is imported when it is used

        subject = self.subject
        source, target = subject.source.path, subject.target.path
        with ExitStack() as stack:
            of_source, of_target = (stack.enter_context(self._base(c)) for c in (subject.source, subject.target))
            space = self.host.latent_space(of_target)
            open_model = stack.enter_context(self.host.models(self.size))
            found = verify(
                Wanted(subject.original, {subject.transferred.stem: subject.transferred}, self.prompts, self.number),
                of_source,
                of_target,
                lambda: open_model(source),
                lambda: open_model(target),
                job,
                latent_space=space,
            )
        return Verified(subject.lora, found.matches, found.choice.reason)

    def _base(self, checkpoint: Checkpoint) -> AbstractContextManager[Base]:
        from lib_transfer.engine.base import open_base  # noqa: PLC0415 - torch is imported when it is used

        first, *encoders = self.host.files_of(checkpoint)
        # Nothing is cached here, so that contents need no name.
        return open_base(first, "", [(path, "") for path in encoders])
