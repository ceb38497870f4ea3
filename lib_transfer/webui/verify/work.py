"""The work of a verification: both checkpoints are run, one after the other, within the program."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import CancelledError, RequestError, TransferError
from lib_transfer.library.checkpoints import Checkpoint, find
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.transfer.form import output_folder
from lib_transfer.webui.transfer.work import runtime
from lib_transfer.webui.verify.job import Verified, VerifyJob

if TYPE_CHECKING:
    from lib_transfer.evaluation import Plan, Study
    from lib_transfer.evaluation.verification import Gathered
    from lib_transfer.library.base import Base
    from lib_transfer.library.index import FileIndex
    from lib_transfer.library.job import Job


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
        improve: whether better ones are looked for, and the best is written.
        host: the program.
        took: is told the seconds that a run of a model took.
    """

    subject: Subject
    prompts: tuple[str, ...]
    number: int
    size: tuple[int, int]
    improve: bool
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
            # Only when nothing of the transferred file is held any more: Windows replaces no file that is mapped.
            verified, facts = self._verified(job)
            advice = " ".join((verified.advice, *self._noted(facts)))
            job.verified = replace(verified, advice=advice)
        except CancelledError:
            raise
        except TransferError as error:
            job.problem = (error.message, error.hint)
        if job.verified is not None and job.runs:
            self.took((time.monotonic() - began) / job.runs)

    def _verified(self, job: VerifyJob) -> tuple[Verified, dict[str, Any]]:
        # torch is imported when it is used.
        from lib_transfer.evaluation import study  # noqa: PLC0415
        from lib_transfer.evaluation.improvement import improving  # noqa: PLC0415
        from lib_transfer.evaluation.verification import Wanted, gathered, verifying  # noqa: PLC0415

        subject = self.subject
        source, target = subject.source.path, subject.target.path
        wanted = Wanted(subject.original, {subject.transferred.stem: subject.transferred}, self.prompts, self.number)
        with ExitStack() as stack:
            of_source, of_target = (stack.enter_context(self._base(c)) for c in (subject.source, subject.target))
            given = gathered(wanted, of_source, of_target)
            space = self.host.models.latent_space(of_target)
            if self.improve:
                plan = improving(wanted, given, of_target, space)
                place = self._place(plan, job)
            else:
                plan, place = verifying(wanted, given, space), None
            with self.host.models.opener(self.size) as open_model:
                found = study(
                    lambda: open_model(source),
                    lambda: open_model(target),
                    given.original,
                    given.candidates,
                    plan,
                    job,
                    reuse=given.reuse,
                )
            written = None if place is None else self._written(found, given, of_target, place)
        advice = " ".join((*found.notes, found.choice.reason))
        return Verified(subject.lora, found.matches, advice, written), found.facts()

    def _noted(self, facts: dict[str, Any]) -> tuple[str, ...]:
        """Put what was found into the transferred LoRA's metadata; what went wrong with that is no reason to lose it."""
        from lib_transfer.formats.annotate import annotate  # noqa: PLC0415
        from lib_transfer.formats.metadata import MATCH  # noqa: PLC0415

        try:
            annotate(self.subject.transferred, {MATCH: json.dumps(facts, sort_keys=True)})
        except TransferError as error:
            return (f"It could not be put into the LoRA's metadata: {error.message}",)
        self.host.adapters_changed()
        return ()

    def _place(self, plan: Plan, job: VerifyJob) -> Job:
        """What is asked for and where it goes; said before the models are run, not after."""
        from lib_transfer.evaluation.improvement import request_of  # noqa: PLC0415
        from lib_transfer.library.destination import Destination, to_replace  # noqa: PLC0415
        from lib_transfer.library.job import Job, make_job  # noqa: PLC0415

        subject, host = self.subject, self.host
        plain = make_job(
            subject.original,
            target=host.files_of(subject.target),
            source=host.files_of(subject.source),
            settings={},
            hashes=runtime(host).hashes,
            cancelled=job.cancelled,
        )
        # Never in place of the transferred one, whatever outputs are called.
        template = str(host.setting("template"))
        template += "" if "{hash8}" in template else "_auto_{hash8}"
        destination = Destination(output_folder(host), template=template, overwrite=True)
        asked = Job(request_of(plain.request, plan, self.size[0] // 8), plain.files, destination)
        to_replace(asked.output, destination)
        return asked

    def _written(self, found: Study, given: Gathered, target: Base, asked: Job) -> str | None:
        """The name of the new LoRA; None where what is there already is as good."""
        from lib_transfer.evaluation.improvement import save  # noqa: PLC0415

        if found.choice.name in given.candidates:
            return None
        path = save(found, asked, given, target)
        if path is None:
            return None
        self.host.adapters_changed()
        return path.stem

    def _base(self, checkpoint: Checkpoint) -> AbstractContextManager[Base]:
        from lib_transfer.library.base import open_base  # noqa: PLC0415 - torch is imported when it is used

        first, *encoders = self.host.files_of(checkpoint)
        # Nothing is cached here, so that contents need no name.
        return open_base(first, "", [(path, "") for path in encoders])
