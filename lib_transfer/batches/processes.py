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
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from lib_transfer.batches.convert import convert, not_converted
from lib_transfer.batches.task import Task
from lib_transfer.batches.watch import SilentWatch, Watch
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import CancelledError, NotEnoughMemoryError, StorageError
from lib_transfer.library.decide import Convert
from lib_transfer.progress import Progress, Silent

GRACE = 0.2
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
                yield from worker.heard(watch, waiting)
            wait([worker.connection for worker in crew if worker.connection is not None], timeout=_LOOK_EVERY)
    finally:
        for worker in crew:
            worker.dismiss()
        for worker in crew:
            worker.end()


class _Worker:
    """A process and the group it is at, as this process sees them."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._process: BaseProcess | None = None
        self.connection: Connection | None = None
        self._task: Task | None = None
        self._progress: Progress = Silent()
        self._left: dict[str, Convert] = {}

    @property
    def busy(self) -> bool:
        """Whether it has a group."""
        return self._task is not None

    def give(self, task: Task) -> None:
        """Give it a group; its process is started with the first one."""
        if self.connection is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            name = f"transfer-lora-{self._number}"
            self._process = context.Process(target=work, args=(theirs,), name=name, daemon=True)
            self._process.start()
            # With this end closed here, the connection ends when the process does.
            theirs.close()
        self._task = task
        self._left = {item.name: item for item in task.items}
        with contextlib.suppress(OSError):
            self.connection.send(task)

    def heard(self, watch: Watch, waiting: deque[Task]) -> Iterator[Outcome]:
        """Everything that the process has said since the last time.

        What one that died had not finished is put to what waits, adapter by adapter.

        Raises:
            StorageError: it could not write an output.
        """
        try:
            while self.connection is not None and self.connection.poll():
                kind, *what = self.connection.recv()
                if kind == "outcome":
                    self._left.pop(what[0].name, None)
                    yield what[0]
                elif kind == "through":
                    self._task = None
                elif kind == "full":
                    raise StorageError(what[0], hint=what[1])
                elif kind == "group":
                    self._progress = watch.group(self._number, what[0])
                else:
                    getattr(self._progress, kind)(*what)
        except (EOFError, ConnectionError):
            yield from self._passed_on(waiting)

    def _passed_on(self, waiting: deque[Task]) -> Iterator[Outcome]:
        task, left = self._task, list(self._left.values())
        self.end()
        if task is not None and len(left) == 1:
            died = NotEnoughMemoryError("The process that was at it died: it was killed, or out of memory.")
            yield not_converted(left[0], died)
        elif task is not None:
            waiting.extendleft(dataclasses.replace(task, items=(item,)) for item in left[::-1])

    def dismiss(self) -> None:
        """Ask the process to stop."""
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.send(None)

    def end(self) -> None:
        """See to it that the process is no more; the next group gets a new one."""
        if self._process is not None:
            self._process.join(GRACE + 10)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        if self.connection is not None:
            self.connection.close()
        self._process = self.connection = self._task = None
        self._left = {}


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
    # Taking an interpreter with torch down in good order takes long, and there is nothing left to put in order.
    os._exit(0)


def _convert(task: Task, told: _Told) -> None:
    try:
        for outcome in convert(task, told):
            told.publishes = False
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
    while told.publishes:
        time.sleep(0.01)
    os._exit(CancelledError.exit_code)


class _Told(SilentWatch):
    """The watch of a worker: it sends what it is told to the main process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.stop = False
        self.publishes = False

    def send(self, *what: Any) -> None:
        # Nobody may be listening any more.
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(what)

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        self.send("group", names)
        return self

    def start(self, total: int, what: str) -> None:
        self.publishes = False
        self.send("start", total, what)

    def step(self, what: str) -> None:
        self.send("step", what)

    def reading(self, files: str, done: int, total: int) -> None:
        self.send("reading", files, done, total)

    def publishing(self) -> None:
        self.publishes = True
        self.send("publishing")

    def cancelled(self) -> bool:
        return self.stop
