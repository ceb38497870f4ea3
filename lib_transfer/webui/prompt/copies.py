"""Transferred copies on disk, found by the request that each says it is the output of."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.errors import TransferError
from lib_transfer.library.index import FileIndex
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.transfer.form import sub_folder

if TYPE_CHECKING:
    from lib_transfer.library.request import TransferRequest


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
            found = self._says(self._places.get(wanted), wanted) or self._says(self._usual(request), wanted)
            if found is None:
                if self._places.pop(wanted, None) is not None:
                    # It is gone; another one like it may have been passed over.
                    self._seen.clear()
                self._look()
                found = self._says(self._places.get(wanted), wanted)
        return found if found is not None and self._index.intact(found) else None

    def made(self, request: TransferRequest, path: Path) -> None:
        """Remember a new output."""
        with self._lock:
            self._places[request.to_json()] = path
        self._index.intact(path)

    def _usual(self, request: TransferRequest) -> Path | None:
        """Where the settings would put it today: nearly always, nothing else has to be looked at."""
        from lib_transfer.library.destination import Destination, output_path  # noqa: PLC0415 - torch comes with it

        with contextlib.suppress(TransferError):
            template = str(self._host.setting("template"))
            return output_path(request, Destination(sub_folder(self._host), template=template))
        return None

    def _says(self, place: Path | None, wanted: str) -> Path | None:
        """``place``, if it is there and says that it is the output of the request ``wanted``."""
        facts = self._index.output(place) if place is not None else None
        return place if facts is not None and facts.request == wanted else None

    def _look(self) -> None:
        """Look into files that were not seen in their present state yet."""
        for folder in self._host.adapter_folders():
            for name in files.walk(folder):
                self._look_into(name)

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
