"""Convert one group. The outermost worker of a batch: whatever goes wrong with an adapter is its own outcome."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator

from lib_transfer.batches.plan import Item
from lib_transfer.batches.task import Task
from lib_transfer.batches.watch import Watch
from lib_transfer.conversion.outcome import Outcome, Status, summary_of
from lib_transfer.conversion.transfer import Ending, Order, transfer_group
from lib_transfer.errors import CancelledError, StorageError, TransferError
from lib_transfer.formats.naming import unique_stem
from lib_transfer.library.destination import Destination, output_path
from lib_transfer.library.naming import named
from lib_transfer.library.request import TransferRequest
from lib_transfer.library.source_checkpoint import doubts

logger = logging.getLogger("transfer_lora")


def convert_all(tasks: Iterable[Task], watch: Watch) -> Iterator[Outcome]:
    """Convert the groups one after another, in this process.

    Raises:
        CancelledError, StorageError: as :func:`convert`.
    """
    for task in tasks:
        yield from convert(task, watch)


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
    watch.group(worker, tuple(item.name for item in task.items))
    pending = {item.name: item for item in task.items}
    try:
        for outcome in _together(task, watch, worker):
            del pending[outcome.name]
            yield outcome
    except (CancelledError, StorageError):
        raise
    except Exception as error:
        if len(pending) == 1:
            [item] = pending.values()
            yield failed(item, task, error)
            return
        logger.warning("Transfer LoRA: a group of %d failed (%s); they go on one by one", len(pending), error)
        for item in pending.values():
            yield from convert(dataclasses.replace(task, items=(item,)), watch, worker)


def _together(task: Task, watch: Watch, worker: int) -> Iterator[Outcome]:
    hashes = task.runtime.hashes
    orders: list[Order] = []
    items: dict[TransferRequest, Item] = {}
    for item in task.items:
        try:
            request = task.batch.of(item.path, item.source, hashes, watch.cancelled)
        except (CancelledError, MemoryError):
            raise
        except TransferError as error:
            yield failed(item, task, error)
            continue
        if request in items:
            yield _outcome(
                item, task, "left out", f"It is the same file as {items[request].name}, whose copy serves both."
            )
            continue
        items[request] = item
        orders.append(Order(request, _destination(item, request, task.taken)))
    began = time.monotonic()
    endings = transfer_group(
        orders,
        runtime=task.runtime,
        progress=_Progress(watch, worker),
        left=lambda member: watch.left_out(items[member.request].name),
        begins=task.begins,
    )
    for order, ending in endings:
        share = (time.monotonic() - began) / len(orders)
        yield dataclasses.replace(_ended(items[order.request], order.request, ending, task), seconds=share)


def _destination(item: Item, request: TransferRequest, taken: frozenset[str]) -> Destination:
    """The item's destination; with a number in the name where a LoRA in another folder has it already."""
    path = output_path(request, item.destination)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.stem.casefold() in taken:
            return named(path.parent, unique_stem(path.stem, taken))
    return item.destination


def _ended(item: Item, request: TransferRequest, ending: Ending, task: Task) -> Outcome:
    notes = doubts(item.facts, item.source, request.source_sha256)
    if isinstance(ending, CancelledError):
        return _outcome(item, task, "left out", ending.message)
    if isinstance(ending, TransferError):
        return dataclasses.replace(failed(item, task, ending), notes=notes)
    # The whole report of every adapter would be too much to keep, and to send.
    summary = ending.report.summary() if ending.report is not None else None
    if summary is None and ending.path is not None:
        summary = dict(summary_of(ending.path))
    outcome = _outcome(item, task, ending.status)
    return dataclasses.replace(outcome, summary=summary, path=ending.path, notes=(*notes, *ending.warnings))


def failed(item: Item, task: Task, error: Exception) -> Outcome:
    """The outcome of an adapter that ``error`` kept from being converted."""
    if isinstance(error, TransferError):
        return _outcome(item, task, "failed", error.message, error.hint)
    logger.error("Transfer LoRA: %r failed", item.name, exc_info=error)
    message = f"This is an error in Transfer LoRA itself: {type(error).__name__}: {error}"
    return _outcome(item, task, "failed", message, "Nothing was written. Please report it with the lines of the log.")


def _outcome(item: Item, task: Task, status: Status, message: str = "", hint: str = "") -> Outcome:
    return Outcome(
        item.name, item.source.name if item.source else "", task.batch.target.name, status, message=message, hint=hint
    )


class _Progress:
    """The engine's progress of one group, told to the watch of the whole batch."""

    def __init__(self, watch: Watch, worker: int) -> None:
        self._watch, self._worker = watch, worker

    def start(self, total: int, what: str) -> None:
        self._watch.stretch(self._worker, total, what)

    def step(self, what: str) -> None:
        self._watch.step(self._worker)

    def cancelled(self) -> bool:
        return self._watch.cancelled()
