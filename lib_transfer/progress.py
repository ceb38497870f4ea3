"""How a long job tells what it is doing, and learns that it should stop."""

from __future__ import annotations

from typing import Protocol

from lib_transfer.errors import CancelledError

WRITING = "writing the output"
"""What the last stretch of a transfer is called: from its start on the output is written whole, and nothing stops it."""


class Progress(Protocol):
    """What a job reports to; the tab, the command line and a batch each bring their own."""

    def start(self, total: int, what: str) -> None:
        """A stretch of ``total`` steps begins; ``what`` is a few words for the person."""

    def step(self, what: str) -> None:
        """One step is done; ``what`` names it. Called from worker threads too."""

    def cancelled(self) -> bool:
        """Whether the person asked to stop; asked between any two modules."""


class Silent:
    """Reports nothing and never stops."""

    def start(self, total: int, what: str) -> None:
        """Ignore the beginning."""

    def step(self, what: str) -> None:
        """Ignore the step."""

    def cancelled(self) -> bool:
        """Never."""
        return False


def check(progress: Progress) -> None:
    """Raise :class:`CancelledError` if the person asked to stop."""
    if progress.cancelled():
        raise CancelledError


def duration(seconds: float) -> str:
    """A time for a person."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
