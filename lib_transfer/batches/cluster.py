"""Groups on a Dask cluster, where one machine is not enough: one task per group.

Adapters, checkpoints, outputs and the cache lie in folders that every machine sees under the same path, and Transfer LoRA is
installed on every machine. A task that is run a second time, because its worker died, finds the outputs of the first run done.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from lib_transfer.batches.convert import convert, not_converted
from lib_transfer.batches.task import Task
from lib_transfer.batches.watch import SilentWatch, Watch
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import CancelledError, NotEnoughMemoryError, RequestError, StorageError
from lib_transfer.library.request import ALGORITHM
from lib_transfer.version import VERSION

OURS = (VERSION, ALGORITHM)
"""What has to be the same on every machine for equal requests to give equal outputs."""

PATIENCE = "15s"
_LOOK_EVERY = 0.2
_ASK_EVERY = 0.5


@dataclass(frozen=True)
class Cluster:
    """A connection to the scheduler of a cluster: the client, and how many groups run at a time."""

    client: Any
    workers: int


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """The cluster whose scheduler listens at ``address``, such as ``tcp://10.0.0.1:8786``.

    Raises:
        RequestError: Dask is not installed, no scheduler answers, or it has no workers.
    """
    dask = _distributed()
    try:
        client = dask.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"No Dask scheduler answers at {address}: {error}.", hint="Start one, and name the address that it tells."
        ) from error
    with client:
        workers = sum(client.nthreads().values())
        if not workers:
            raise RequestError(f"The scheduler at {address} has no workers.", hint="Start some, and try again.")
        yield Cluster(client, workers)


def on_cluster(tasks: Sequence[Task], watch: Watch, cluster: Cluster) -> Iterator[Outcome]:
    """Convert ``tasks`` on the workers of ``cluster``.

    What a worker was at that died goes on in another one. A group that several workers died of is divided.

    Raises:
        CancelledError: the person asked to stop; the modules under way are finished first.
        StorageError: an output could not be written.
        RequestError: a worker has another version of Transfer LoRA.
    """
    client, dask = cluster.client, _distributed()
    stop = dask.Event(f"transfer-lora-{secrets.token_hex(8)}", client=client)

    def submit(task: Task) -> Any:
        return client.submit(work, task, OURS, stop.name, pure=False)

    pending = {submit(task): task for task in tasks}
    try:
        while pending:
            if watch.cancelled():
                raise CancelledError
            for future in [future for future in pending if future.done()]:
                task = pending.pop(future)
                ended = future.exception()
                if ended is None:
                    yield from _outcomes(future.result())
                elif len(task.items) == 1:
                    yield not_converted(task.items[0], _words(ended))
                else:
                    pending |= {submit(dataclasses.replace(task, items=(item,))): task for item in task.items}
            time.sleep(_LOOK_EVERY)
    finally:
        if pending:
            stop.set()
            client.cancel(list(pending))


@dataclass(frozen=True)
class Ended:
    """How a group ended on a worker: its outcomes, and what stopped it, where something did."""

    outcomes: tuple[Outcome, ...]
    error: str = ""
    message: str = ""
    hint: str = ""


def work(task: Task, theirs: tuple[str, int], stop: str) -> Ended:
    """Convert one group, on a worker. Nothing is raised that only this project could read."""
    dask = _distributed()
    if theirs != OURS:
        machine = dask.get_worker().address
        return Ended((), "version", f"The worker {machine} has version {OURS} of Transfer LoRA, this machine {theirs}.")
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    try:
        outcomes.extend(convert(task, _Told(dask.Event(stop, client=dask.get_client()))))
    except CancelledError as error:
        return Ended(tuple(outcomes), "stopped", error.message)
    except StorageError as error:
        return Ended(tuple(outcomes), "full", error.message, error.hint)
    return Ended(tuple(outcomes))


def _outcomes(ended: Ended) -> Iterator[Outcome]:
    yield from ended.outcomes
    if ended.error == "version":
        raise RequestError(ended.message, hint="Install the same version on every machine.")
    if ended.error == "full":
        raise StorageError(ended.message, hint=ended.hint)
    if ended.error == "stopped":
        raise CancelledError


def _words(error: BaseException) -> Exception:
    """What a task failed of, for the person."""
    if type(error).__name__ == "KilledWorker":
        return NotEnoughMemoryError("Every worker that was at it died: they were killed, or out of memory.")
    return RequestError(
        f"The cluster could not do it: {type(error).__name__}: {error}.",
        hint="Transfer LoRA has to be installed on every machine, and the folders to be the same.",
    )


class _Told(SilentWatch):
    """The watch of a worker: it only asks whether to stop, and that seldom, because the answer is on another machine."""

    def __init__(self, stop: Any) -> None:
        self._stop = stop
        self._asked, self._answer = 0.0, False

    def cancelled(self) -> bool:
        now = time.monotonic()
        if now - self._asked > _ASK_EVERY:
            self._asked, self._answer = now, bool(self._stop.is_set())
        return self._answer


def _distributed() -> ModuleType:
    try:
        import distributed  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise RequestError(
            f"A cluster needs Dask, and {error.name} is not installed.",
            hint="Install distributed, or leave --scheduler out.",
        ) from error
    return distributed
