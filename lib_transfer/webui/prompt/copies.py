"""Transferred copies on disk, found by the request that each says it is the output of."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.engine.file_index import FileIndex
from lib_transfer.webui import files
from lib_transfer.webui.host import Host

if TYPE_CHECKING:
    from lib_transfer.engine.request import TransferRequest


class Copies:
    """Every output in the LoRA folders, wherever it lies and whatever it is called. Safe to use from several threads."""

    def __init__(self, host: Host, index: FileIndex) -> None:
        self._host = host
        self._index = index
        self._lock = threading.Lock()
        self._places: dict[str, Path] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    def find(self, request: TransferRequest) -> Path | None:
        """An undamaged output of an equal request; None where there is none."""
        wanted = request.to_json()
        with self._lock:
            found = self._there(wanted)
            if found is None:
                if self._places.pop(wanted, None) is not None:
                    # It is gone; another one like it may have been passed over.
                    self._seen.clear()
                self._look()
                found = self._there(wanted)
        return found if found is not None and self._index.intact(found) else None

    def made(self, request: TransferRequest, path: Path) -> None:
        """Remember a new output."""
        with self._lock:
            self._places[request.to_json()] = path
        self._index.intact(path)
        self._index.save()

    def _there(self, wanted: str) -> Path | None:
        place = self._places.get(wanted)
        facts = self._index.output(place) if place is not None else None
        return place if facts is not None and facts.request == wanted else None

    def _look(self) -> None:
        """Look into files that were not seen in their present state yet."""
        for folder in self._host.adapter_folders():
            for name in files.walk(folder):
                self._look_into(name)
        self._index.save()

    def _look_into(self, name: str) -> None:
        with contextlib.suppress(OSError):
            status = os.stat(name)  # noqa: PTH116 - thousands of them
            state = (status.st_size, status.st_mtime_ns)
            if self._seen.get(name) == state:
                return
            self._seen[name] = state
            facts = self._index.output(Path(name))
            if facts is not None and facts.request:
                self._places[facts.request] = Path(name)
