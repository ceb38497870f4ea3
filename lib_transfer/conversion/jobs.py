"""Jobs in, transferred adapters out, with reports; or the report alone. One job is a group of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from lib_transfer.conversion.group import AdapterRun, Bases, Left, carry_all, opened
from lib_transfer.conversion.parallel import one_thread_each
from lib_transfer.conversion.publish import TransferResult, publish
from lib_transfer.conversion.report import TransferReport
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, NotEnoughMemoryError, StorageError, TransferError
from lib_transfer.library.destination import Destination, need_folder, to_replace
from lib_transfer.library.job import Job
from lib_transfer.library.outputs import is_done
from lib_transfer.progress import Progress, Silent
from lib_transfer.storage.cache import Cache

Ending = TransferResult | TransferError
"""How a job of a group ends."""


def analyse(job: Job, *, runtime: Runtime | None = None, progress: Progress | None = None) -> TransferReport:
    """Everything a transfer would do and find, without writing an output (the cache is filled).

    Args:
        job: a job that :func:`lib_transfer.request` made.
        runtime: the device, the cache folder and the number of workers.
        progress: is told of every module, and asked whether to stop.

    Raises:
        TransferError: a file cannot be read, the inputs do not belong together, or the person stopped it.
    """
    runtime = runtime or Runtime()
    cache = runtime.cache
    with opened(job, runtime, cache) as bases:
        run = AdapterRun(job, bases, writes=False)
        carry_all([run], runtime, cache, progress or Silent())
        return run.report()


def transfer(
    job: Job,
    destination: Destination | None = None,
    *,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
) -> TransferResult:
    """Transfer an adapter and write the result.

    Args:
        job: a job that :func:`lib_transfer.request` made.
        destination: where the output goes; where the job says when not given, which is the adapter's own folder.
        runtime: the device, the cache folder and the number of workers.
        progress: is told of every module, and asked whether to stop.

    Returns:
        The output's path and the report. Nothing is computed when the output of an equal request is already there.

    Raises:
        OutputExistsError: the output exists and is something else.
        TransferError: a file cannot be read or written, the inputs do not belong together, or the person stopped it;
            nothing was written then.
    """
    if destination is not None:
        job = dataclasses.replace(job, destination=destination)
    [(_, ending)] = transfer_group([job], runtime=runtime or Runtime(), progress=progress or Silent())
    if isinstance(ending, TransferError):
        raise ending
    return ending


def transfer_group(
    jobs: Sequence[Job],
    *,
    runtime: Runtime,
    progress: Progress,
    left: Left = lambda _: False,
    begins: float = 0.0,
) -> Iterator[tuple[Job, Ending]]:
    """Transfer several adapters together; each output is written whole, as soon as all modules were carried.

    Args:
        jobs: jobs whose requests differ in the adapter alone.
        runtime, progress: as in :func:`transfer`.
        left, begins: as in :func:`~lib_transfer.conversion.group.carry_all`.

    Yields:
        Every job with its ending, in no special order; a problem of one of them does not keep the others back.

    Raises:
        CancelledError: the person asked to stop. What was yielded is done.
        StorageError: an output could not be written, and so the next one could not be either.
        NotEnoughMemoryError: there is too little memory for a module, or for all adapters together.
    """
    to_do: list[tuple[Job, Path | None]] = []
    for job in jobs:
        try:
            ending, replaced = _prepared(job)
        except TransferError as error:
            yield job, error
            continue
        if ending is not None:
            yield job, ending
        else:
            to_do.append((job, replaced))
    if not to_do:
        return
    cache = runtime.cache
    with ExitStack() as stack:
        try:
            bases = stack.enter_context(opened(to_do[0][0], runtime, cache))
        except NotEnoughMemoryError:
            raise
        except TransferError as error:
            yield from ((job, error) for job, _ in to_do)
            return
        runs: list[tuple[AdapterRun, Path | None]] = []
        for job, replaced in to_do:
            run = _run(job, bases)
            if isinstance(run, TransferError):
                yield job, run
            else:
                runs.append((run, replaced))
        if runs:
            carry_all([run for run, _ in runs], runtime, cache, progress, left, begins)
        yield from _published(runs, cache, progress)


def _published(
    runs: list[tuple[AdapterRun, Path | None]], cache: Cache, progress: Progress
) -> Iterator[tuple[Job, Ending]]:
    while runs:
        # Taken out of the list, so that its memory is free once it is written.
        run, replaced = runs.pop(0)
        yield run.job, _ending(run, replaced, cache, progress)


def _run(job: Job, bases: Bases) -> AdapterRun | TransferError:
    try:
        # Small tensors are looked at one by one: waking threads for each takes longer than the looking.
        with one_thread_each():
            return AdapterRun(job, bases, writes=True)
    except NotEnoughMemoryError:
        raise
    except TransferError as error:
        return error


def _prepared(job: Job) -> tuple[TransferResult | None, Path | None]:
    """The result, where the output is there already; otherwise the file that it will replace, if any."""
    path = job.output
    if is_done(path, job.request):
        return TransferResult(path, "already done", None), None
    replaced = to_replace(path, job.destination)
    need_folder(path.parent)
    return None, replaced


def _ending(run: AdapterRun, replaced: Path | None, cache: Cache, progress: Progress) -> Ending:
    """Publish one run's output; its problem, where it has one of its own."""
    try:
        with one_thread_each():
            result = publish(run, replaced, progress)
    except (CancelledError, StorageError) as error:
        if error is run.problem:
            return error
        raise
    except TransferError as error:
        return error
    unkept = () if cache.problem is None else (cache.problem,)
    return dataclasses.replace(result, warnings=(*result.warnings, *unkept))
