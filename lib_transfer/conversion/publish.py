"""Publish the result of one adapter's run: the last part of a transfer, which nothing stops once it has begun."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lib_transfer.conversion import output
from lib_transfer.conversion.group import AdapterRun
from lib_transfer.conversion.report import TransferReport
from lib_transfer.errors import OutputExistsError
from lib_transfer.formats.naming import unique_stem
from lib_transfer.formats.publish import sweep
from lib_transfer.formats.sidecars import carry_sidecars, plan_sidecars
from lib_transfer.formats.writer import write_adapter
from lib_transfer.library.outputs import is_done
from lib_transfer.progress import Progress, check


@dataclass(frozen=True)
class TransferResult:
    """What a transfer came to.

    Attributes:
        path: the output; None where nothing could be carried and so nothing was written.
        status: ``written``; ``already done``: the output of an equal request was there; ``nothing carried``.
        report: the whole report; None when it was already done, whose summary is in the file's metadata.
        sidecars: files carried along, such as previews.
        warnings: what went wrong and does the output no harm; where models were run, also what was chosen and why.
    """

    path: Path | None
    status: Literal["written", "already done", "nothing carried"]
    report: TransferReport | None
    sidecars: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


def publish(run: AdapterRun, replaced: Path | None, progress: Progress) -> TransferResult:
    """Write the output of ``run``, all of whose modules were carried.

    Args:
        run: the run.
        replaced: the file that the output replaces, if any.
        progress: is asked for the last time whether to stop, and told that the output is being written.

    Raises:
        CancelledError: the person asked to stop; nothing was written.
        TransferError: the run's own problem, or the output could not be written.
    """
    report = run.report()
    if not any(result.tensors for result in run.results):
        return TransferResult(None, "nothing carried", report)
    path = run.job.output
    if replaced and run.job.destination.file is None:
        path = path.with_stem(unique_stem(path.stem, {p.stem.casefold() for p in path.parent.iterdir()}))
    run.still_the_same()
    check(progress)
    progress.publishing()
    try:
        return _write(run, report, path, replaced)
    except OutputExistsError:
        # Another process was at the same request, and quicker.
        if not is_done(path, run.request):
            raise
        return TransferResult(path, "already done", None)


def _write(run: AdapterRun, report: TransferReport, path: Path, replaced: Path | None) -> TransferResult:
    request, target = run.request, run.bases.target
    summary = json.dumps(report.summary(), sort_keys=True)
    metadata = output.metadata(request, run.adapter.metadata, output.ranks(run.results), target, summary, path.stem)
    sweep(path.parent)
    tensors = output.all_tensors(run.results, target, run.dtype)
    tensors |= output.embeddings(run.planned.embeddings)
    warnings = list(write_adapter(path, tensors, metadata, overwrite=replaced == path).warnings)
    if replaced is not None and replaced != path:
        try:
            replaced.unlink()
        except OSError as error:
            warnings.append(f"The old output {replaced} could not be removed: {error.strerror}.")
    note = f"Transferred from {request.adapter_name} to {request.target_name} ({request.method})."
    if request.architecture:
        note = f"Made from {request.adapter_name}: the same numbers under names that programs load."
    card = target.architecture.card_version
    sidecars = carry_sidecars(plan_sidecars(run.job.files.adapter, path, card_version=card, note=note))
    return TransferResult(path, "written", report, sidecars.files, (*warnings, *sidecars.notes))
