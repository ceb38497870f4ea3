"""How a running batch tells what it is doing, and learns that it should stop or leave out an adapter."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.progress import WRITING


class Watch(Protocol):
    """What a batch reports to; the tab and the command line each bring their own."""

    def group(self, worker: int, names: tuple[str, ...]) -> None:
        """The worker of this number begins a group."""

    def stretch(self, worker: int, total: int, what: str) -> None:
        """A stretch of ``total`` steps of that group begins; ``what`` is a few words for the person."""

    def step(self, worker: int) -> None:
        """One of these steps is done. Called from several threads."""

    def settled(self, outcome: Outcome) -> None:
        """An adapter is through."""

    def cancelled(self) -> bool:
        """Whether the person asked to stop."""

    def left_out(self, name: str) -> bool:
        """Whether the person left out this adapter."""


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
            left = elapsed / share - elapsed if share > 0.005 and elapsed > 1 else None
            words = "; ".join(text for group in self._groups.values() if group.names and (text := group.words))
            return share, f"{self._settled} of {self._total} LoRAs{f'; {words}' if words else ''}", left


class _Group:
    """How far one group is: carrying its modules is nearly all of the work."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.total, self.done = 0, 0
        self.what = ""

    def begin(self, total: int, what: str) -> None:
        self.total, self.done, self.what = total, 0, what

    @property
    def share(self) -> float:
        return 1.0 if self.what == WRITING else self.done / max(self.total, 1)

    @property
    def words(self) -> str:
        return f"{self.what}, module {self.done} of {self.total}" if self.total > 1 else self.what
