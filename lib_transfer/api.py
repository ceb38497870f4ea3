"""What ``import lib_transfer`` offers beside the functions that are made elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lib_transfer import methods
from lib_transfer.batches.convert import convert
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.folders import checked_settings, plan_folders
from lib_transfer.batches.plan import BatchPlan
from lib_transfer.batches.processes import in_processes
from lib_transfer.batches.report import BatchReport
from lib_transfer.batches.task import MEMORY, tasks
from lib_transfer.batches.watch import SilentWatch, Watch
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.library.adapters import find
from lib_transfer.library.destination import Existing
from lib_transfer.library.job import Job, Model, make_job
from lib_transfer.methods import METHODS, Method, Value
from lib_transfer.progress import Progress, Silent


def list_methods() -> tuple[Method, ...]:
    """Every method, the default one first: its id, title, paper, formula, parameters, and what it needs."""
    return METHODS


def request(
    adapter: str | Path,
    *,
    target: Model,
    source: Model | None = None,
    method: str = methods.DEFAULT,
    runtime: Runtime | None = None,
    **settings: Value,
) -> Job:
    """The job of transferring ``adapter`` from the checkpoint ``source`` to the checkpoint ``target``.

    Hashes all three files; hashes are remembered in the cache folder. What the result depends on is its ``request``.

    Args:
        adapter: the path of the LoRA, or of a folder that PEFT saved one as.
        source, target: paths of checkpoints; a sequence of them where text encoders lie in files of their own, the
            checkpoint first. A method that declares no need of it does without a source.
        method: the id of one of :func:`list_methods`.
        runtime: the runtime whose cache folder remembers the hashes; only that is used of it.
        settings: settings of the method, such as ``energy=0.95`` or ``rank="full"``; the rest take their defaults.

    Raises:
        TransferError: an unknown method or setting, a value out of range, or a file that cannot be read.
    """
    hashes = (runtime or Runtime()).hashes
    return make_job(adapter, target=target, source=source, method=method, settings=settings, hashes=hashes)


def batch(
    folders: Sequence[str | Path],
    *,
    target: Model,
    source: Model | None = None,
    checkpoints: str | Path | None = None,
    method: str = methods.DEFAULT,
    recursive: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    output: str | Path | None = None,
    existing: Existing = "skip",
    workers: int = 1,
    memory: int = MEMORY,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    **settings: Value,
) -> BatchReport:
    """Transfer every LoRA in ``folders``. What a stopped batch has written is found done by the next one.

    Args:
        folders: paths of folders.
        target: the checkpoint that the LoRAs are transferred to, as in :func:`request`.
        source: the checkpoint that all of them were trained on; not needed with ``checkpoints``.
        checkpoints: a folder of checkpoints, in which each LoRA's source is found from the LoRA's metadata.
        method: the id of one of :func:`list_methods`.
        recursive: whether sub-folders count.
        include, exclude: patterns of names, see :func:`lib_transfer.library.adapters.find`.
        output: the folder that outputs go to; each LoRA's own folder when not given.
        existing: what to do where another output has the wanted name: ``skip``, ``overwrite`` or ``both``.
        workers: the number of processes; with 1 everything runs in this process. Processes are spawned, so a script that
            asks for more needs ``if __name__ == "__main__"``.
        memory: bytes that all workers together may take.
        runtime: the device and the cache folder.
        progress: is told of every file that is looked into, and asked whether to stop.
        watch: is told of every LoRA and every module, and asked whether to stop.
        settings: settings of the method, as in :func:`request`.

    Returns:
        What became of each LoRA; a problem of one of them is in its row and does not stop the others.

    Raises:
        CancelledError: ``progress`` or ``watch`` said to stop.
        TransferError: a folder or the target cannot be used, a setting is wrong, or an output could not be written.
    """
    runtime = runtime or Runtime()
    found = find([*map(Path, folders)], recursive=recursive, include=include, exclude=exclude)
    asked = checked_settings(method, settings, source, output, existing, runtime)
    planned = plan_folders(folders, found, target, asked, checkpoints, runtime, progress or Silent())
    return _converted(planned, runtime, watch or SilentWatch(), memory=memory, workers=workers)


def _converted(plan: BatchPlan, runtime: Runtime, watch: Watch, *, memory: int, workers: int) -> BatchReport:
    report = BatchReport(plan)
    how = dataclasses.replace(runtime, workers=runtime.workers if workers == 1 else 1)
    groups = tasks(plan, how, Costs(plan), memory=memory, workers=workers)
    here = (outcome for group in groups for outcome in convert(group, watch))
    for outcome in here if workers == 1 else in_processes(groups, watch, workers):
        report.settled(outcome)
        watch.settled(outcome)
    return report
