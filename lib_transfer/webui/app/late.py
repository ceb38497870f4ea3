"""Events that are connected when the page is built and made when the first of them arrives."""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

from lib_transfer.webui.host.host import Host

if TYPE_CHECKING:
    from lib_transfer.webui.app.events import PageEvents


class LateEvents:
    """The events of a page, made once, by the thread of the first event.

    They import the whole engine, which takes longer than everything else that the tab does while the WebUI starts.

    Args:
        host: the program.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._made: PageEvents | None = None

    def made(self) -> PageEvents:
        """The events themselves."""
        with self._lock:
            if self._made is None:
                self._made = importlib.import_module("lib_transfer.webui.app.events").PageEvents(self.host)
            return self._made

    def of(self, view: str) -> Any:
        """The events of a view, to be connected now: an object with a function for each."""
        return _LateView(self, view)


class _LateView:
    def __init__(self, page: LateEvents, view: str) -> None:
        self._page, self._view = page, view

    def __getattr__(self, name: str) -> Any:
        def event(*given: Any) -> Any:
            return getattr(getattr(self._page.made(), self._view), name)(*given)

        event.__name__ = name
        return event
