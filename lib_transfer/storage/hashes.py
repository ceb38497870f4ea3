"""Content hashes of checkpoints and adapters, remembered between runs.

A checkpoint's SHA-256 takes seconds to compute and is asked for at every transfer. It is remembered for as long as path,
size, modification time in nanoseconds and inode stay the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from lib_transfer.formats.checkpoint import checkpoint_files
from lib_transfer.formats.identity import FileStamp, file_sha256, stamp
from lib_transfer.storage.memory import FileMemory

_KIND = "sha256"


class Hashes:
    """SHA-256 of files, remembered in ``folder`` (see :class:`~.memory.FileMemory`)."""

    def __init__(self, folder: Path) -> None:
        self._memory = FileMemory(folder)

    def sha256(self, path: Path, cancelled: Callable[[], bool] = lambda: False) -> str:
        """SHA-256 of the checkpoint or adapter at ``path`` in hex.

        That of a folder is of what ``sha256sum`` prints for its files that count, in the order of their names within it.

        Raises:
            BadFileError: it is not there, or a folder without a model.
            StorageError: a file cannot be read.
            CancelledError: ``cancelled`` said so.
        """
        if path.is_dir():
            return _of_folder(path, [(file, self._of_file(file, cancelled)) for file in checkpoint_files(path)])
        return self._of_file(path, cancelled)

    def recalled(self, path: Path) -> str | None:
        """:meth:`sha256` where it is remembered; nothing is computed.

        Raises:
            BadFileError, StorageError: as :meth:`sha256`.
        """
        files = checkpoint_files(path)
        known = [(file, self._recalled(_state(file))) for file in files]
        if not path.is_dir():
            return known[0][1]
        digests = [(file, digest) for file, digest in known if digest is not None]
        return _of_folder(path, digests) if len(digests) == len(files) else None

    def _of_file(self, path: Path, cancelled: Callable[[], bool]) -> str:
        now = _state(path)
        known = self._recalled(now)
        if known is not None:
            return known
        digest = file_sha256(path, cancelled)
        if _state(path) == now:
            self._memory.put(_KIND, now, digest)
        return digest

    def _recalled(self, now: FileStamp) -> str | None:
        known = self._memory.get(_KIND, now)
        return known if isinstance(known, str) and len(known) == 64 else None


def _state(path: Path) -> FileStamp:
    """The state of the file that ``path`` leads to: several links to it share what is remembered."""
    return dataclasses.replace(stamp(path), path=os.path.realpath(path))


def _of_folder(folder: Path, digests: Iterable[tuple[Path, str]]) -> str:
    lines = "".join(f"{digest}  {file.relative_to(folder).as_posix()}\n" for file, digest in digests)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
