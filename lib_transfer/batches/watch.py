"""How a running batch tells what it is doing, and learns that it should stop or leave out an adapter."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.progress import PUBLISHING, Progress, remaining


class Watch(Protocol):
    """What a batch reports to; the tab and the command line each bring their own."""

    def group(self, worker: int, names: tuple[str, ...]) -> None:
        """The worker of this number begins a group."""

    def stretch(self, worker: int, total: int, what: str) -> None:
        """A stretch of ``total`` steps of that group begins; ``what`` is a few words for the person."""

    def step(self, worker: int) -> None:
        """One of these steps is done. Called from several threads."""

    def publishing(self, worker: int) -> None:
        """An output of that group is being written, whole; nothing stops it."""

    def settled(self, outcome: Outcome) -> None:
        """An adapter is through."""

    def cancelled(self) -> bool:
        """Whether the person asked to stop."""

    def left_out(self, name: str) -> bool:
        """Whether the person left out this adapter."""


class SilentWatch:
    """A watch that shows nothing, and never stops."""

    def group(self, worker: int, names: tuple[str, ...]) -> None:
        """Ignore the group."""

    def stretch(self, worker: int, total: int, what: str) -> None:
        """Ignore the stretch."""

    def step(self, worker: int) -> None:
        """Ignore the step."""

    def publishing(self, worker: int) -> None:
        """Let it be written."""

    def settled(self, outcome: Outcome) -> None:
        """Ignore the outcome."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def left_out(self, name: str) -> bool:
        """Never."""
        return False


class ProgressWatch(SilentWatch):
    """The watch of a group that is converted in this process, where only its progress is to be told."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def stretch(self, worker: int, total: int, what: str) -> None:
        self._progress.start(total, what)

    def step(self, worker: int) -> None:
        self._progress.step("")

    def publishing(self, worker: int) -> None:
        self._progress.publishing()

    def cancelled(self) -> bool:
        return self._progress.cancelled()


class GroupProgress:
    """The progress of one group's conversion, told to the watch of the whole batch."""

    def __init__(self, watch: Watch, worker: int) -> None:
        self._watch, self._worker = watch, worker

    def start(self, total: int, what: str) -> None:
        """A stretch begins."""
        self._watch.stretch(self._worker, total, what)

    def step(self, what: str) -> None:
        """One step is done."""
        self._watch.step(self._worker)

    def publishing(self) -> None:
        """An output is being written."""
        self._watch.publishing(self._worker)

    def cancelled(self) -> bool:
        """Whether to stop."""
        return self._watch.cancelled()


class Tally:
    """How far a batch is, from what a :class:`Watch` is told. Safe to use from several threads.

    Args:
        total: how many adapters there are to convert.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._settled = 0
        self._began = 0.0
        self._groups: dict[int, _Group] = {}
        self._lock = threading.Lock()

    def group(self, worker: int, names: tuple[str, ...]) -> None:
        """As :meth:`Watch.group`."""
        with self._lock:
            self._began = self._began or time.monotonic()
            self._groups[worker] = _Group(set(names))

    def stretch(self, worker: int, total: int, what: str) -> None:
        """As :meth:`Watch.stretch`."""
        with self._lock:
            self._groups.setdefault(worker, _Group(set())).begin(total, what)

    def step(self, worker: int) -> None:
        """As :meth:`Watch.step`."""
        with self._lock:
            self._groups[worker].done += 1

    def publishing(self, worker: int) -> None:
        """As :meth:`Watch.publishing`."""
        with self._lock:
            self._groups[worker].publishing = True

    def settled(self, name: str) -> None:
        """As :meth:`Watch.settled`."""
        with self._lock:
            self._settled += 1
            for group in self._groups.values():
                group.names.discard(name)

    def now(self) -> tuple[float, str, float | None]:
        """How much is done (0 to 1), at what, and the seconds left where they can be told."""
        with self._lock:
            done = self._settled + sum(group.share * len(group.names) for group in self._groups.values())
            share = min(done / max(self._total, 1), 1.0)
            elapsed = time.monotonic() - self._began if self._began else 0.0
            left = remaining(share, elapsed)
            words = "; ".join(text for group in self._groups.values() if group.names and (text := group.words))
            return share, f"{self._settled} of {self._total} LoRAs{f'; {words}' if words else ''}", left


class _Group:
    """How far one group is: carrying its modules is nearly all of the work."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.total, self.done, self.publishing = 0, 0, False
        self.what = ""

    def begin(self, total: int, what: str) -> None:
        self.total, self.done, self.what, self.publishing = total, 0, what, False

    @property
    def share(self) -> float:
        return 1.0 if self.publishing else self.done / max(self.total, 1)

    @property
    def words(self) -> str:
        if self.publishing:
            return PUBLISHING
        return f"{self.what}, module {self.done} of {self.total}" if self.total > 1 else self.what
