"""The same output is never made twice at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lib_transfer.errors import CancelledError

_ASK_EVERY = 0.1  # seconds between looks at whether to go on waiting


class Once:
    """Lets one job at a time make the output of a request: the next one finds it done. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy: set[str] = set()

    @contextmanager
    def making(self, digest: str, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait until nobody else makes the output of the request ``digest``, and keep others from it meanwhile.

        Raises:
            CancelledError: ``cancelled`` said so while waiting.
        """
        with self._changed:
            while digest in self._busy:
                if cancelled():
                    raise CancelledError
                self._changed.wait(_ASK_EVERY)
            self._busy.add(digest)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(digest)
                self._changed.notify_all()
