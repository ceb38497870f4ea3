"""How a long job tells what it is doing, and learns that it should stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lib_transfer.errors import CancelledError
from lib_transfer.formatting import of_size

PUBLISHING = "writing the output"
"""What is shown while :meth:`Progress.publishing` lasts."""


class Progress(Protocol):
    """What a job reports to; the tab, the command line and a batch each bring their own."""

    def start(self, total: int, what: str) -> None:
        """A stretch of ``total`` steps begins; ``what`` is a few words for the person."""

    def step(self, what: str) -> None:
        """One step is done; ``what`` names it. Called from worker threads too."""

    def reading(self, files: str, done: int, total: int) -> None:
        """``done`` of ``total`` bytes of ``files`` are read, within the stretch or before any; it is over when all are.

        Called from worker threads too.
        """

    def publishing(self) -> None:
        """From here on the output is written whole, and nothing stops it, until the next stretch or the end of the job.

        Raises:
            CancelledError: the person asked to stop just before.
        """

    def cancelled(self) -> bool:
        """Whether the person asked to stop; asked between any two modules."""


class Silent:
    """Reports nothing and never stops."""

    def start(self, total: int, what: str) -> None:
        """Ignore the beginning."""

    def step(self, what: str) -> None:
        """Ignore the step."""

    def reading(self, files: str, done: int, total: int) -> None:
        """Ignore what is read."""

    def publishing(self) -> None:
        """Let it be written."""

    def cancelled(self) -> bool:
        """Never."""
        return False


class Skippable:
    """A progress that is over, too, as soon as what it is for is left out.

    Args:
        progress: what is told everything.
        left_out: whether it is left out.
    """

    def __init__(self, progress: Progress, left_out: Callable[[], bool]) -> None:
        self._left_out = left_out
        self._progress = progress
        self.start, self.step, self.reading = progress.start, progress.step, progress.reading
        self.publishing = progress.publishing

    def cancelled(self) -> bool:
        """Whether the person asked to stop, or left it out."""
        return self._progress.cancelled() or self._left_out()


SILENT = Silent()
"""For functions that are told no progress."""


def check(progress: Progress) -> None:
    """Raise :class:`CancelledError` if the person asked to stop."""
    if progress.cancelled():
        raise CancelledError


def words_for_reading(files: str, done: int, total: int) -> str:
    """What :meth:`Progress.reading` tells, for the person."""
    return f"Reading {files}, {of_size(done, total)}"


def remaining(share: float, elapsed: float) -> float | None:
    """The seconds that are left of a job of which ``share`` (0 to 1) took ``elapsed``; None where it is too early to tell."""
    return elapsed / share - elapsed if share > 0.005 and elapsed > 1 else None
