"""The main job: a request in, a transferred adapter out, with a report; or the report alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import torch

from lib_transfer import method as registry
from lib_transfer.engine import output
from lib_transfer.engine.base import Base, open_base
from lib_transfer.engine.cache import Cache
from lib_transfer.engine.carry import Carried, Settings, carry
from lib_transfer.engine.destination import Destination, is_done, need_folder, output_path, to_replace
from lib_transfer.engine.plan import Pair, plan
from lib_transfer.engine.report import ModuleReport, TransferReport
from lib_transfer.engine.request import Files, TransferRequest, files_of
from lib_transfer.engine.run import Relations, Runtime, over_modules
from lib_transfer.errors import BadFileError
from lib_transfer.formats.adapter import Adapter, read_adapter
from lib_transfer.formats.identity import FileStamp, stamp
from lib_transfer.formats.naming import unique_stem
from lib_transfer.formats.publish import sweep
from lib_transfer.formats.regular_file import changed_error
from lib_transfer.formats.sidecars import carry_sidecars, plan_sidecars
from lib_transfer.formats.writer import write_adapter
from lib_transfer.progress import WRITING, Progress, Silent, check

R = TypeVar("R")


@dataclass(frozen=True)
class TransferResult:
    """What a transfer came to.

    Attributes:
        path: the output; None where nothing could be carried and so nothing was written.
        status: ``written``; ``already done``: the output of an equal request was there; ``nothing carried``.
        report: the whole report; None when it was already done, whose summary is in the file's metadata.
        sidecars: files carried along, such as previews.
        warnings: what went wrong and does the output no harm.
    """

    path: Path | None
    status: Literal["written", "already done", "nothing carried"]
    report: TransferReport | None
    sidecars: tuple[Path, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())


def analyse(
    request: TransferRequest, *, runtime: Runtime | None = None, progress: Progress | None = None
) -> TransferReport:
    """Everything a transfer would do and find, without writing an output (the cache is filled).

    Raises:
        TransferError: a file cannot be read, the inputs do not belong together, or the person stopped it.
    """
    with _opened(request) as inputs:
        runtime = runtime or Runtime()
        report, _ = _run(request, inputs, runtime, runtime.cache, progress or Silent(), lambda _: None)
        return report


def transfer(
    request: TransferRequest,
    destination: Destination | None = None,
    *,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
) -> TransferResult:
    """Transfer an adapter and write the result.

    Args:
        request: from :func:`lib_transfer.request`.
        destination: where to; the adapter's own folder when not given.
        runtime: device, cache folder and workers.
        progress: is told of every module, and asked whether to stop.

    Returns:
        The output's path and the report. Nothing is computed when the output of an equal request is already there.

    Raises:
        OutputExistsError: the output exists and is something else.
        TransferError: a file cannot be read or written, the inputs do not belong together, or the person stopped it;
            nothing was written then.
    """
    destination, runtime, progress = destination or Destination(), runtime or Runtime(), progress or Silent()
    path = output_path(request, destination)
    if is_done(path, request):
        return TransferResult(path, "already done", None)
    replaced = to_replace(path, destination)
    need_folder(path.parent)
    with _opened(request) as inputs:
        cache, dtype = runtime.cache, output.output_dtype(request.setting("dtype"), inputs.adapter)
        report, pieces = _run(request, inputs, runtime, cache, progress, lambda carried: output.piece(carried, dtype))
        unkept = [] if cache.problem is None else [cache.problem]
        if not any(piece.tensors for piece in pieces):
            return TransferResult(None, "nothing carried", report, warnings=(*unkept,))
        if replaced and destination.file is None:
            path = path.with_stem(unique_stem(path.stem, {p.stem.casefold() for p in path.parent.iterdir()}))
        _still_the_same(inputs)
        # The last moment to stop: from here on the output is written, whole.
        check(progress)
        progress.start(1, WRITING)
        result = _write(request, inputs, pieces, report, path, replaced, dtype)
        progress.step(path.name)
        return dataclasses.replace(result, warnings=(*result.warnings, *unkept))


@dataclass(frozen=True)
class _Inputs:
    """Everything that was opened for a request."""

    files: Files
    adapter: Adapter
    source: Base | None
    target: Base

    @property
    def stamps(self) -> tuple[FileStamp, ...]:
        """The states in which the files were opened, in the order of :class:`Files`."""
        bases = [base for base in (self.source, self.target) if base is not None]
        return (*self.adapter.header.stamps, *(stamp for base in bases for stamp in base.checkpoint.stamps))


@contextmanager
def _opened(request: TransferRequest) -> Iterator[_Inputs]:
    files = files_of(request)
    adapter = read_adapter(files.adapter)
    with ExitStack() as stack:
        source = None
        if files.source is not None and request.source_sha256 is not None:
            source = stack.enter_context(open_base(files.source, request.source_sha256))
        target = stack.enter_context(open_base(files.target, request.target_sha256))
        inputs = _Inputs(files, adapter, source, target)
        # A file that was rewritten after it was hashed would be carried, and cached, under the name of the old one.
        if files.stamps and files.stamps != inputs.stamps:
            raise changed_error(next(s.path for s, was in zip(inputs.stamps, files.stamps, strict=True) if s != was))
        yield inputs


def _run(
    request: TransferRequest,
    inputs: _Inputs,
    runtime: Runtime,
    cache: Cache,
    progress: Progress,
    work: Callable[[Carried], R],
) -> tuple[TransferReport, list[R]]:
    """Carry every module, do ``work`` on each at once, so that no more is kept than its result, and report."""
    settings = Settings.of(request)
    planned = plan(inputs.adapter, inputs.source, inputs.target)
    device = runtime.torch_device
    relate = Relations(inputs.source or inputs.target, inputs.target, settings.wanted, cache, device)

    def one(pair: Pair) -> tuple[ModuleReport, R]:
        carried = carry(pair, settings, relate, device)
        return carried.report, work(carried)

    progress.start(len(planned.pairs), f"{request.adapter_name} to {request.target_name}")
    results = over_modules(planned.pairs, one, lambda pair: pair.group.name, runtime.threads, progress)
    cache.prune()
    report = TransferReport(
        request=json.loads(request.to_json()),
        method=registry.get(request.method).title,
        source_architecture=inputs.source.architecture.title if inputs.source else None,
        target_architecture=inputs.target.architecture.title,
        modules=tuple(report for report, _ in results),
        unread=planned.unread,
    )
    return report, [result for _, result in results]


def _write(
    request: TransferRequest,
    inputs: _Inputs,
    pieces: Sequence[output.Piece],
    report: TransferReport,
    path: Path,
    replaced: Path | None,
    dtype: torch.dtype,
) -> TransferResult:
    summary = json.dumps(report.summary(), sort_keys=True)
    metadata = output.metadata(request, inputs.adapter.metadata, pieces, inputs.target, summary, path.stem)
    sweep(path.parent)
    tensors = output.all_tensors(pieces, inputs.target, dtype)
    warnings = list(write_adapter(path, tensors, metadata, overwrite=replaced == path).warnings)
    if replaced is not None and replaced != path:
        try:
            replaced.unlink()
        except OSError as error:
            warnings.append(f"The old output {replaced} could not be removed: {error.strerror}.")
    note = f"Transferred from {request.adapter_name} to {request.target_name} ({request.method})."
    card = inputs.target.architecture.card_version
    sidecars = carry_sidecars(plan_sidecars(inputs.files.adapter, path, card_version=card, note=note))
    return TransferResult(path, "written", report, sidecars.files, (*warnings, *sidecars.notes))


def _still_the_same(inputs: _Inputs) -> None:
    """Raise if an input was rewritten while it was being read."""
    changed = [opened.path for opened in inputs.stamps if stamp(opened.path) != opened]
    if changed:
        raise BadFileError(
            f"{changed[0]} changed during the transfer, so nothing was written.", reason="changed", hint="Start again."
        )
