"""Convert one group. The outermost worker of every job: whatever goes wrong with an adapter is its own outcome."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from lib_transfer.batches.automatic import automatic
from lib_transfer.batches.task import Task
from lib_transfer.batches.watch import Watch
from lib_transfer.conversion.jobs import Ending, analyse, transfer_group
from lib_transfer.conversion.outcome import Outcome, failed, summary_of
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, StorageError, TransferError
from lib_transfer.library.checkpoints import doubts
from lib_transfer.library.decide import Convert
from lib_transfer.library.destination import numbered
from lib_transfer.library.job import Job
from lib_transfer.library.request import TransferRequest
from lib_transfer.progress import Progress, Skippable

LEFT_OUT = "Skipped; nothing was written."

logger = logging.getLogger("transfer_lora")


def convert(task: Task, watch: Watch, worker: int = 0) -> Iterator[Outcome]:
    """Convert the adapters of ``task``, and yield what became of each.

    Where a group fails as a whole, for want of memory or by an error in this program, its adapters are converted one by one.

    Args:
        task: the group.
        watch: is told of every module and asked whether to stop.
        worker: the number of the worker that this is.

    Raises:
        CancelledError: the person asked to stop. What was yielded is done.
        StorageError: an output could not be written, and so the next one could not be either.
    """
    progress = watch.group(worker, tuple(item.name for item in task.items))
    pending = {item.name: item for item in task.items}
    try:
        for outcome in _together(task, watch, progress):
            del pending[outcome.name]
            yield outcome
    except (CancelledError, StorageError):
        raise
    except Exception as error:
        if len(pending) == 1:
            [item] = pending.values()
            yield not_converted(item, error)
            return
        logger.warning("Transfer LoRA: a group of %d failed (%s); they go on one by one", len(pending), error)
        for item in pending.values():
            yield from convert(dataclasses.replace(task, items=(item,)), watch, worker)


def analysed(item: Convert, runtime: Runtime, progress: Progress) -> Outcome:
    """The outcome of an analysis, which writes nothing.

    Raises:
        TransferError: as :func:`~lib_transfer.conversion.jobs.analyse`.
    """
    job = item.job(runtime.hashes, progress)
    report = analyse(job, runtime=runtime, progress=progress)
    notes = doubts(item.facts, item.source, job.request.source_sha256)
    return dataclasses.replace(_blank(item), status="analysed", report=report, notes=notes)


def not_converted(item: Convert, error: Exception) -> Outcome:
    """The outcome of an adapter that ``error`` kept from being converted."""
    return failed(item.name, item.source, item.target, error)


def _together(task: Task, watch: Watch, progress: Progress) -> Iterator[Outcome]:
    jobs: list[Job] = []
    items: dict[TransferRequest, Convert] = {}
    for item in task.items:
        try:
            job = item.job(task.runtime.hashes, progress)
            same = items.setdefault(job.request, item)
            if same is not item:
                message = f"It is the same file as {same.name}, whose output serves both."
                yield dataclasses.replace(_blank(item), status="left out", message=message)
                continue
            jobs.append(_placed(job, task.taken))
        except (CancelledError, MemoryError):
            raise
        except TransferError as error:
            yield not_converted(item, error)
    began = time.monotonic()
    if task.items[0].settings.how.runs_models:
        endings = _automatic(jobs, task, lambda job: watch.left_out(items[job.request].name), progress)
    else:
        endings = transfer_group(
            jobs,
            runtime=task.runtime,
            progress=progress,
            left=lambda run: watch.left_out(items[run.request].name),
            begins=task.begins,
        )
    for job, ending in endings:
        share = (time.monotonic() - began) / len(jobs)
        outcome = _ended(items[job.request], job, ending, task.keeps_reports)
        yield dataclasses.replace(outcome, seconds=share)


def _automatic(
    jobs: Sequence[Job], task: Task, left_out: Callable[[Job], bool], progress: Progress
) -> Iterator[tuple[Job, Ending]]:
    """Transfer adapters by running both checkpoints, one after another; each may be left out meanwhile."""
    for job in jobs:
        skippable = Skippable(progress, functools.partial(left_out, job))
        try:
            yield job, automatic(job, task.models, task.runtime, skippable)
        except StorageError:
            raise
        except CancelledError:
            if progress.cancelled():
                raise
            yield job, CancelledError(LEFT_OUT)
        except TransferError as error:
            yield job, error


def _placed(job: Job, taken: frozenset[str]) -> Job:
    """``job`` with a number in the name of its output where a LoRA in another folder has that name already."""
    path = job.output
    if path.exists():
        return job
    if path.stem.casefold() not in taken:
        return job
    return dataclasses.replace(job, destination=numbered(path, taken))


def _blank(item: Convert) -> Outcome:
    return Outcome(item.name, item.source.name if item.source else "", item.target.name, "failed")


def _ended(item: Convert, job: Job, ending: Ending, keeps_report: bool) -> Outcome:
    notes = doubts(item.facts, item.source, job.request.source_sha256)
    if isinstance(ending, CancelledError):
        return dataclasses.replace(_blank(item), status="left out", message=ending.message)
    if isinstance(ending, TransferError):
        return dataclasses.replace(not_converted(item, ending), notes=notes)
    made = dataclasses.replace(
        _blank(item),
        status=ending.status,
        path=ending.path,
        sidecars=ending.sidecars,
        notes=(*notes, *ending.warnings),
    )
    if ending.path is None and ending.report is None:
        return dataclasses.replace(made, notes=notes, message=" ".join(ending.warnings))
    if ending.report is None:
        return made if ending.path is None else dataclasses.replace(made, summary=dict(summary_of(ending.path)))
    if keeps_report:
        return dataclasses.replace(made, report=ending.report)
    return dataclasses.replace(made, summary=ending.report.summary())
