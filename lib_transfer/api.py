"""What ``import lib_transfer`` offers beside the functions that are made elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lib_transfer import methods
from lib_transfer.batches.automatic import automatic
from lib_transfer.batches.convert import convert as carry_out
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.folders import checked_settings, plan_folders
from lib_transfer.batches.loadable import make_loadable
from lib_transfer.batches.plan import BatchPlan
from lib_transfer.batches.processes import in_processes
from lib_transfer.batches.report import BatchReport
from lib_transfer.batches.task import MEMORY, Task, tasks
from lib_transfer.batches.watch import SilentWatch, Watch
from lib_transfer.conversion import jobs
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.publish import TransferResult
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.evaluation.verification import Runner
from lib_transfer.formats.peft_folder import adapter_file, adapter_home, adapter_name
from lib_transfer.library.adapters import Found, find
from lib_transfer.library.checkpoints import described
from lib_transfer.library.destination import Destination, Existing, need_folder
from lib_transfer.library.index import FileIndex
from lib_transfer.library.job import Job, Model, make_job, model_paths
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.library.own_base import staying
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


def transfer(
    job: Job,
    destination: Destination | None = None,
    *,
    models: Runner | None = None,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
) -> TransferResult:
    """Transfer an adapter and write the result.

    Args:
        job: a job that :func:`request` made.
        destination: where the output goes; where the job says when not given, which is the adapter's own folder.
        models: what runs the checkpoints, where the method does; diffusers when not given.
        runtime: the device, the cache folder and the number of workers.
        progress: is told of every module, or of every run of a model, and asked whether to stop.

    Returns:
        The output's path and the report. Nothing is computed when the output of an equal request is already there. By a
        method that runs models there is no report; the warnings say what was chosen and why.

    Raises:
        OutputExistsError: the output exists and is something else.
        TransferError: a file cannot be read or written, the inputs do not belong together, a model cannot be run, or the
            person stopped it; nothing was written then.
    """
    runtime, progress = runtime or Runtime(), progress or Silent()
    if not methods.get(job.request.method).runs_models:
        return jobs.transfer(job, destination, runtime=runtime, progress=progress)
    job = job if destination is None else dataclasses.replace(job, destination=destination)
    return automatic(job, models, runtime, progress)


def convert(
    adapter: str | Path,
    *,
    base: str = "",
    target: Model | None = None,
    output: str | Path | None = None,
    existing: Existing = "skip",
    runtime: Runtime | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Make ``adapter`` load: write the same numbers under the names and in the layout that the programs for its base read.

    No checkpoint is needed; shapes come from the adapter itself.

    Args:
        adapter: the path of the LoRA, or of a folder that PEFT saved one as.
        base: the id of the architecture that it is for (``anima``, ``sdxl``), where the file does not tell.
        target: a checkpoint that it works on, as in :func:`request`, for what cannot be written without its weights.
        output: the folder that the output goes to; the LoRA's own folder when not given.
        existing: what to do where another output has the wanted name, as in :func:`batch`.
        runtime: the device and the cache folder.
        progress: is told of every module, and asked whether to stop.

    Returns:
        What became of it. ``status`` is ``written``, ``already done``, ``left out`` (``why`` is ``loads as it is``),
        ``nothing carried`` or ``failed``, with the reason in ``message``; ``notes`` say what was wrong with the file, and
        ``path`` is the output.

    Raises:
        CancelledError: ``progress`` said to stop.
        TransferError: the output folder cannot be used, or the output could not be written.
    """
    runtime = runtime or Runtime()
    file = adapter_file(Path(adapter))
    folder = None if output is None else Path(output)
    if folder is not None:
        need_folder(folder)
    index = FileIndex(runtime.cache.folder)
    folders = (folder or adapter_home(file),)
    library = Library(index, runtime.hashes, folders, outputs=Outputs(index), progress=progress or Silent())
    library.look()
    on = None if target is None else described(model_paths(target), runtime.hashes)
    return make_loadable(
        Found(adapter_name(file), file), staying(folder, existing), library, runtime, base=base, target=on
    )


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
    models: Runner | None = None,
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
        models: what runs the checkpoints, where the method does; diffusers when not given. They are run in this process, one
            LoRA after another.
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
    workers = 1 if asked.how.runs_models else workers
    how = dataclasses.replace(runtime, workers=runtime.workers if workers == 1 else 1)
    groups = tasks(planned, how, Costs(planned), memory=memory, workers=workers, models=models)
    return _converted(planned, groups, watch or SilentWatch(), workers)


def _converted(plan: BatchPlan, groups: Sequence[Task], watch: Watch, workers: int) -> BatchReport:
    report = BatchReport(plan)
    here = (outcome for group in groups for outcome in carry_out(group, watch))
    for outcome in here if workers == 1 else in_processes(groups, watch, workers):
        report.settled(outcome)
        watch.settled(outcome)
    return report
