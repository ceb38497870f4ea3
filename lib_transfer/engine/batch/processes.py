"""Groups side by side in processes of their own on this machine, each computing with one thread."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from lib_transfer.engine.batch.convert import convert, failed
from lib_transfer.engine.batch.plan import Item
from lib_transfer.engine.batch.task import Task
from lib_transfer.engine.batch.watch import Watch
from lib_transfer.engine.outcome import Outcome
from lib_transfer.errors import CancelledError, NotEnoughMemoryError, StorageError
from lib_transfer.progress import WRITING

GRACE = 0.4
"""Seconds that a worker may go on with the module it is at, once it is to stop. An output being written is finished."""

_LOOK_EVERY = 0.1


def in_processes(tasks: Sequence[Task], watch: Watch, workers: int) -> Iterator[Outcome]:
    """Convert ``tasks`` in up to ``workers`` processes, which are spawned.

    A worker that dies (killed, out of memory) takes no output with it: what it had not finished goes on in another one,
    adapter by adapter.

    Raises:
        CancelledError: the person asked to stop.
        StorageError: an output could not be written.
    """
    waiting = deque(tasks)
    crew = [_Worker(number) for number in range(min(workers, len(tasks)))]
    try:
        while waiting or any(worker.busy for worker in crew):
            if watch.cancelled():
                raise CancelledError
            for worker in crew:
                if waiting and not worker.busy:
                    worker.give(waiting.popleft())
            for worker in crew:
                yield from worker.heard(watch)
                if worker.dead:
                    yield from _passed_on(worker.replaced(), waiting)
            wait([worker.connection for worker in crew], timeout=_LOOK_EVERY)
    finally:
        for worker in crew:
            worker.dismiss()
        for worker in crew:
            worker.end()


def _passed_on(rest: Task | None, waiting: deque[Task]) -> Iterator[Outcome]:
    """Put what a worker that died left behind to what waits; an adapter that it died of alone has failed."""
    if rest is not None and len(rest.items) == 1:
        died = NotEnoughMemoryError("The process that was at it died: it was killed, or out of memory.")
        yield failed(rest.items[0], rest, died)
    elif rest is not None:
        waiting.extendleft(dataclasses.replace(rest, items=(item,)) for item in rest.items[::-1])


class _Worker:
    """A process and the group it is at, as this process sees them."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._start()

    def _start(self) -> None:
        self.dead = False
        self._task: Task | None = None
        self._left: dict[str, Item] = {}
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs,), name=f"transfer-lora-{self._number}", daemon=True)
        self._process.start()
        # With this end closed here, the connection ends when the process does.
        theirs.close()

    @property
    def busy(self) -> bool:
        return self._task is not None

    def give(self, task: Task) -> None:
        self._task = task
        self._left = {item.name: item for item in task.items}
        with contextlib.suppress(OSError):
            self.connection.send(task)

    def heard(self, watch: Watch) -> Iterator[Outcome]:
        """Everything that the process has said since the last time.

        Raises:
            StorageError: it could not write an output.
        """
        try:
            while self.connection.poll():
                kind, *what = self.connection.recv()
                if kind == "outcome":
                    self._left.pop(what[0].name, None)
                    yield what[0]
                elif kind == "through":
                    self._task = None
                elif kind == "full":
                    raise StorageError(what[0], hint=what[1])
                else:
                    getattr(watch, kind)(self._number, *what)
        except (EOFError, ConnectionError):
            self.dead = True

    def replaced(self) -> Task | None:
        """A new process in the place of one that died; what the old one had not finished."""
        rest = dataclasses.replace(self._task, items=tuple(self._left.values())) if self._task and self._left else None
        self.end()
        self._start()
        return rest

    def dismiss(self) -> None:
        """Ask the process to stop."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def end(self) -> None:
        """See to it that the process is no more."""
        self._process.join(GRACE + 10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()


def work(connection: Connection) -> None:
    """The life of a worker process: tasks come in, what the watch is to be told goes out."""
    # Ctrl-C reaches every process of a terminal; the main one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    told = _Told(connection)
    threading.Thread(target=_listen, args=(connection, inbox, told), daemon=True).start()
    with contextlib.suppress(CancelledError):
        while (task := inbox.get()) is not None:
            _convert(task, told)


def _convert(task: Task, told: _Told) -> None:
    try:
        for outcome in convert(task, told):
            told.writing = False
            told.send("outcome", outcome)
        told.send("through")
    except StorageError as error:
        told.send("full", error.message, error.hint)


def _listen(connection: Connection, inbox: queue.SimpleQueue[Task | None], told: _Told) -> None:
    """Take in tasks until there are no more, or the main process is gone; then end this process, wherever it is."""
    with contextlib.suppress(EOFError, OSError):
        while (task := connection.recv()) is not None:
            inbox.put(task)
    told.stop = True
    inbox.put(None)
    time.sleep(GRACE)
    while told.writing:
        time.sleep(0.01)
    os._exit(CancelledError.exit_code)


class _Told:
    """The watch of a worker: it sends what it is told to the main process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.stop = False
        self.writing = False

    def send(self, *what: Any) -> None:
        # Nobody may be listening any more.
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(what)

    def group(self, worker: int, names: tuple[str, ...]) -> None:
        self.send("group", names)

    def stretch(self, worker: int, total: int, what: str) -> None:
        self.writing = what == WRITING
        self.send("stretch", total, what)

    def step(self, worker: int) -> None:
        self.send("step")

    def settled(self, outcome: Outcome) -> None:
        """Outcomes are sent by the worker itself."""

    def cancelled(self) -> bool:
        return self.stop

    def left_out(self, name: str) -> bool:
        return False
