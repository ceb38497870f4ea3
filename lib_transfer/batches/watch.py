"""How a running batch tells what it is doing, and learns that it should stop or leave out an adapter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.progress import PUBLISHING, Progress, Silent, remaining, words_for_reading


class Watch(Protocol):
    """What a batch reports to; the tab and the command line each bring their own."""

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        """The worker of this number begins a group; what is returned is told how far its conversion is."""

    def settled(self, outcome: Outcome) -> None:
        """An adapter is through."""

    def cancelled(self) -> bool:
        """Whether the person asked to stop."""

    def left_out(self, name: str) -> bool:
        """Whether the person left out this adapter."""


class SilentWatch(Silent):
    """A watch that shows nothing and never stops. It is the progress of every group, too."""

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        """Ignore the group."""
        return self

    def settled(self, outcome: Outcome) -> None:
        """Ignore the outcome."""

    def left_out(self, name: str) -> bool:
        """Never."""
        return False


class ProgressWatch(SilentWatch):
    """The watch of groups that are converted in this process, one after another, and told to one progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        return self._progress

    def cancelled(self) -> bool:
        return self._progress.cancelled()


class Tally:
    """How far a batch is, from what a :class:`Watch` is told. Safe to use from several threads.

    Args:
        total: how many adapters there are to convert.
        changed: is called whenever a group gets on.
    """

    def __init__(self, total: int, changed: Callable[[], None] = lambda: None) -> None:
        self._total = total
        self._changed = changed
        self._settled = 0
        self._began = 0.0
        self._groups: dict[int, _Group] = {}
        self._lock = threading.Lock()

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        """As :meth:`Watch.group`."""
        group = _Group(set(names), self._lock, self._changed)
        with self._lock:
            self._began = self._began or time.monotonic()
            self._groups[worker] = group
        return group

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


class _Group(Silent):
    """How far one group is: carrying its modules is nearly all of the work."""

    def __init__(self, names: set[str], lock: threading.Lock, changed: Callable[[], None]) -> None:
        self.names = names
        self._lock, self._changed = lock, changed
        self._total, self._done, self._publishing = 0, 0, False
        self._what, self._reading = "", ""

    def start(self, total: int, what: str) -> None:
        with self._lock:
            self._total, self._done, self._what, self._publishing = total, 0, what, False
            self._reading = ""
        self._changed()

    def step(self, what: str) -> None:
        with self._lock:
            self._done += 1
        self._changed()

    def reading(self, files: str, done: int, total: int) -> None:
        with self._lock:
            self._reading = words_for_reading(files, done, total) if done < total else ""
        self._changed()

    def publishing(self) -> None:
        with self._lock:
            self._publishing = True
        self._changed()

    @property
    def share(self) -> float:
        return 1.0 if self._publishing else self._done / max(self._total, 1)

    @property
    def words(self) -> str:
        if self._publishing:
            return PUBLISHING
        if self._reading:
            return self._reading
        return f"{self._what}, module {self._done} of {self._total}" if self._total > 1 else self._what
