"""The one limit of the clock: it ends a hang, and decides no test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

HANG = 600
"""Seconds after which something that a test waits for counts as never coming, however slow and busy the machine is."""


def until(condition: Callable[[], Found], *, every: float = 0.02) -> Found:
    """Wait until ``condition()`` is true, looking again after each ``every`` seconds; returns what it gave.

    Raises:
        AssertionError: it was not true within :data:`HANG` seconds, or ``condition`` itself found that it never will be.
    """
    limit = time.monotonic() + HANG
    while not (found := condition()):
        assert time.monotonic() < limit, f"waited for ten minutes in vain: {condition}"
        time.sleep(every)
    return found
