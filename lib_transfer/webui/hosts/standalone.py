"""The standalone server as a host: folders laid out like a WebUI's, and settings in a file of their own."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib_transfer.errors import RequestError, TransferError
from lib_transfer.formats.identity import legacy_a1111_hash, stamp
from lib_transfer.formats.publish import write_bytes
from lib_transfer.library.checkpoints import ENDINGS, Checkpoint
from lib_transfer.storage.cache import default_folder
from lib_transfer.storage.hashes import Hashes
from lib_transfer.webui.host.abilities import QueueSlot
from lib_transfer.webui.host.host import Active, Host


class Standalone(Host):
    """Models in ``models_dir/Stable-diffusion`` and ``models_dir/Lora``.

    Args:
        models_dir: the folder that a WebUI calls ``models``.
        cache_folder: the folder for decompositions, the file index and our settings; None for the usual one.

    Raises:
        RequestError: ``models_dir`` has no such folders.
    """

    def __init__(self, models_dir: Path, cache_folder: Path | None = None) -> None:
        self._checkpoint_folder = models_dir / "Stable-diffusion"
        self._adapter_folders = tuple(f for f in (models_dir / "Lora", models_dir / "LyCORIS") if f.is_dir())
        if not self._adapter_folders or not self._checkpoint_folder.is_dir():
            raise RequestError(
                f"{models_dir} is not laid out like a WebUI's models folder.",
                hint="It needs the folders Stable-diffusion and Lora.",
            )
        self._cache_folder = cache_folder or default_folder()
        self._settings_file = self._cache_folder / "settings.json"
        self._lock = threading.Lock()
        self._checkpoints: dict[str, Checkpoint] = {}
        self._legacy: dict[tuple[Path, object], str] = {}
        self._stored = self._load()
        self.rescan_checkpoints()
        self._chosen = next(iter(self._checkpoints), "")

    def adapter_folders(self) -> tuple[Path, ...]:
        """``Lora`` and ``LyCORIS``."""
        return self._adapter_folders

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """The checkpoints found by the last scan."""
        return dict(self._checkpoints)

    def rescan_checkpoints(self) -> None:
        """Scan the folder again."""
        hashes = Hashes(self._cache_folder)
        found: dict[str, Checkpoint] = {}
        for path in sorted(self._checkpoint_folder.rglob("*")):
            if path.suffix.lower() in ENDINGS and path.is_file():
                name = path.relative_to(self._checkpoint_folder).as_posix()
                found[name] = Checkpoint(name, path, hashes.recalled(path), self._legacy_hash(path))
        self._checkpoints = found

    def active(self) -> Active:
        """The checkpoint selected at the top of the page; the first one where that is gone."""
        if self._chosen in self._checkpoints:
            return Active(self._checkpoints[self._chosen], self._chosen)
        first = next(iter(self._checkpoints.values()), None)
        return Active(first, self._chosen, fallback=first is not None and bool(self._chosen))

    def choose(self, name: object) -> None:
        """Make the checkpoint ``name`` the active one."""
        if isinstance(name, str) and name in self._checkpoints:
            self._chosen = name

    def stored(self, key: str) -> Any:
        """The value in the settings file."""
        return self._stored.get(key)

    def store(self, values: Mapping[str, Any]) -> None:
        """Store all settings.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._lock:
            self._stored = dict(values)
            self._cache_folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self._settings_file, json.dumps(self._stored, indent=1).encode(), overwrite=True)

    def default_cache_folder(self) -> Path:
        """The folder that was given, or the usual one."""
        return self._cache_folder

    def adapters_changed(self) -> None:
        """Nothing to do: no other program keeps a list."""

    @contextmanager
    def gpu_turn(self, task: str) -> Iterator[QueueSlot]:
        """Return at once: there is no queue but our own."""
        yield _FreeSlot()

    def _load(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(self._settings_file.read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
        return {}

    def _legacy_hash(self, path: Path) -> str | None:
        try:
            key = (path, stamp(path))
            if key not in self._legacy:
                self._legacy[key] = legacy_a1111_hash(path)
            return self._legacy[key]
        except TransferError:
            return None


class _FreeSlot:
    """The slot of a program without a queue, a progress bar or an interrupt of its own."""

    def show(self, job: int, jobs: int, step: int, steps: int, text: str) -> None:
        """Nothing to do: there is no progress bar."""

    def interrupted(self) -> bool:
        """Never: there is no such button."""
        return False

    def skipped(self) -> bool:
        """Never: there is no such button."""
        return False

    def stop(self) -> None:
        """Nothing to do: the program does no work of its own."""
