"""The main job: a request in, a transferred adapter out, with a report; or the report alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lib_transfer.conversion import output
from lib_transfer.conversion.group import Bases, Left, Member, carry_all, opened
from lib_transfer.conversion.parallel import one_thread_each
from lib_transfer.conversion.report import TransferReport
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, NotEnoughMemoryError, OutputExistsError, StorageError, TransferError
from lib_transfer.formats.naming import unique_stem
from lib_transfer.formats.publish import sweep
from lib_transfer.formats.sidecars import carry_sidecars, plan_sidecars
from lib_transfer.formats.writer import write_adapter
from lib_transfer.library.destination import Destination, is_done, need_folder, output_path, to_replace
from lib_transfer.library.request import TransferRequest, files_of
from lib_transfer.progress import WRITING, Progress, Silent, check
from lib_transfer.storage.cache import Cache


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


@dataclass(frozen=True)
class Order:
    """A request and where its output goes."""

    request: TransferRequest
    destination: Destination


Ending = TransferResult | TransferError
"""How a transfer of a group ends."""


def analyse(
    request: TransferRequest, *, runtime: Runtime | None = None, progress: Progress | None = None
) -> TransferReport:
    """Everything a transfer would do and find, without writing an output (the cache is filled).

    Raises:
        TransferError: a file cannot be read, the inputs do not belong together, or the person stopped it.
    """
    runtime = runtime or Runtime()
    cache = runtime.cache
    with opened(request, runtime, cache) as bases:
        member = Member(request, bases, writes=False)
        carry_all([member], runtime, cache, progress or Silent())
        return member.report()


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
    order = Order(request, destination or Destination())
    [(_, ending)] = transfer_group([order], runtime=runtime or Runtime(), progress=progress or Silent())
    if isinstance(ending, TransferError):
        raise ending
    return ending


def transfer_group(
    orders: Sequence[Order],
    *,
    runtime: Runtime,
    progress: Progress,
    left: Left = lambda _: False,
    begins: float = 0.0,
) -> Iterator[tuple[Order, Ending]]:
    """Transfer several adapters together; each output is written whole, as soon as all modules were carried.

    Args:
        orders: their requests differ in the adapter alone.
        runtime, progress: as in :func:`transfer`.
        left, begins: as in :func:`~lib_transfer.conversion.group.carry_all`.

    Yields:
        Every order with its ending, in no special order; a problem of one of them does not keep the others back.

    Raises:
        CancelledError: the person asked to stop. What was yielded is done.
        StorageError: an output could not be written, and so the next one could not be either.
        NotEnoughMemoryError: there is too little memory for a module, or for all adapters together.
    """
    to_do: list[tuple[Order, Path | None]] = []
    for order in orders:
        try:
            ending, replaced = _prepared(order)
        except TransferError as error:
            yield order, error
            continue
        if ending is not None:
            yield order, ending
        else:
            to_do.append((order, replaced))
    if not to_do:
        return
    cache = runtime.cache
    with ExitStack() as stack:
        try:
            bases = stack.enter_context(opened(to_do[0][0].request, runtime, cache))
        except NotEnoughMemoryError:
            raise
        except TransferError as error:
            yield from ((order, error) for order, _ in to_do)
            return
        yield from _carried(to_do, bases, runtime, cache, progress, left, begins)


def _carried(
    to_do: Sequence[tuple[Order, Path | None]],
    bases: Bases,
    runtime: Runtime,
    cache: Cache,
    progress: Progress,
    left: Left,
    begins: float,
) -> Iterator[tuple[Order, Ending]]:
    members: list[tuple[Member, Order, Path | None]] = []
    for order, replaced in to_do:
        member = _member(order, bases)
        if isinstance(member, TransferError):
            yield order, member
        else:
            members.append((member, order, replaced))
    if not members:
        return
    carry_all([member for member, _, _ in members], runtime, cache, progress, left, begins)
    while members:
        # Taken out of the list, so that its memory is free once it is written.
        member, order, replaced = members.pop(0)
        yield order, _ending(member, order, replaced, cache, progress)


def _member(order: Order, bases: Bases) -> Member | TransferError:
    try:
        # Small tensors are looked at one by one: waking threads for each takes longer than the looking.
        with one_thread_each():
            return Member(order.request, bases, writes=True)
    except NotEnoughMemoryError:
        raise
    except TransferError as error:
        return error


def _prepared(order: Order) -> tuple[TransferResult | None, Path | None]:
    """The result, where the output is there already; otherwise the file that it will replace, if any."""
    path = output_path(order.request, order.destination)
    if is_done(path, order.request):
        return TransferResult(path, "already done", None), None
    replaced = to_replace(path, order.destination)
    need_folder(path.parent)
    return None, replaced


def _ending(member: Member, order: Order, replaced: Path | None, cache: Cache, progress: Progress) -> Ending:
    """Write one member's output; its problem, where it has one of its own."""
    try:
        with one_thread_each():
            result = _published(member, order, replaced, progress)
    except (CancelledError, StorageError) as error:
        if error is member.problem:
            return error
        raise
    except TransferError as error:
        return error
    unkept = () if cache.problem is None else (cache.problem,)
    return dataclasses.replace(result, warnings=(*result.warnings, *unkept))


def _published(member: Member, order: Order, replaced: Path | None, progress: Progress) -> TransferResult:
    report = member.report()
    if not any(result.tensors for result in member.results):
        return TransferResult(None, "nothing carried", report)
    path = output_path(order.request, order.destination)
    if replaced and order.destination.file is None:
        path = path.with_stem(unique_stem(path.stem, {p.stem.casefold() for p in path.parent.iterdir()}))
    member.still_the_same()
    # The last moment to stop: from here on the output is written, whole.
    check(progress)
    progress.start(1, WRITING)
    try:
        result = _write(member, report, path, replaced)
    except OutputExistsError:
        # Somebody else was at the same request, and quicker.
        if not is_done(path, order.request):
            raise
        result = TransferResult(path, "already done", None)
    progress.step(path.name)
    return result


def _write(member: Member, report: TransferReport, path: Path, replaced: Path | None) -> TransferResult:
    request, target = member.request, member.bases.target
    summary = json.dumps(report.summary(), sort_keys=True)
    metadata = output.metadata(
        request, member.adapter.metadata, output.ranks(member.results), target, summary, path.stem
    )
    sweep(path.parent)
    tensors = output.all_tensors(member.results, target, member.dtype)
    tensors |= output.embeddings(member.planned.embeddings)
    warnings = list(write_adapter(path, tensors, metadata, overwrite=replaced == path).warnings)
    if replaced is not None and replaced != path:
        try:
            replaced.unlink()
        except OSError as error:
            warnings.append(f"The old output {replaced} could not be removed: {error.strerror}.")
    note = f"Transferred from {request.adapter_name} to {request.target_name} ({request.method})."
    card = target.architecture.card_version
    sidecars = carry_sidecars(plan_sidecars(files_of(request).adapter, path, card_version=card, note=note))
    return TransferResult(path, "written", report, sidecars.files, (*warnings, *sidecars.notes))
