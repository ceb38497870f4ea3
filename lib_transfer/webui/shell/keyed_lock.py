"""A lock for each key, so that the same output is never made twice at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lib_transfer.errors import CancelledError

_ASK_EVERY = 0.1  # seconds between looks at whether to go on waiting


class KeyedLock:
    """Held by one thread at a time for each key. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[str] = set()

    @contextmanager
    def holding(self, key: str, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait until nobody else holds ``key``, and hold it meanwhile.

        Raises:
            CancelledError: ``cancelled`` said so while waiting.
        """
        with self._changed:
            while key in self._held:
                if cancelled():
                    raise CancelledError
                self._changed.wait(_ASK_EVERY)
            self._held.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(key)
                self._changed.notify_all()
