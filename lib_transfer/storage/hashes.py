"""Content hashes of checkpoints and adapters, remembered between runs.

A checkpoint's SHA-256 takes seconds to compute and is asked for at every transfer. It is remembered for as long as path,
size, modification time in nanoseconds and inode stay the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib_transfer.formats.checkpoint import checkpoint_files
from lib_transfer.formats.identity import FileStamp, file_sha256, stamp
from lib_transfer.progress import SILENT, Progress, check
from lib_transfer.storage.memory import FileMemory

_KIND = "sha256"

_AT_ONCE = 8
"""Files that are read side by side, at most."""


class Hashes:
    """SHA-256 of files, remembered in ``folder`` (see :class:`~.memory.FileMemory`)."""

    def __init__(self, folder: Path) -> None:
        self._memory = FileMemory(folder)

    def sha256(self, path: Path, progress: Progress = SILENT) -> str:
        """SHA-256 of the checkpoint or adapter at ``path`` in hex; see :meth:`of`."""
        return self.of([path], progress)[path]

    def of(self, paths: Iterable[Path], progress: Progress = SILENT) -> dict[Path, str]:
        """SHA-256 of checkpoints and adapters in hex. Files of which it is not remembered are read side by side.

        That of a folder is of what ``sha256sum`` prints for its files that count, in the order of their names within it.

        Args:
            paths: the checkpoints and adapters.
            progress: is told the bytes that are read, and asked whether to stop.

        Raises:
            BadFileError: one is not there, or a folder without a model.
            StorageError: a file cannot be read.
            CancelledError: the person asked to stop.
        """
        files = {path: checkpoint_files(path) for path in paths}
        states = {file: _state(file) for each in files.values() for file in each}
        known = {file: digest for file, state in states.items() if (digest := self._recalled(state)) is not None}
        known |= self._read({file: state for file, state in states.items() if file not in known}, progress)
        return {
            path: _of_folder(path, [(file, known[file]) for file in each]) if path.is_dir() else known[path]
            for path, each in files.items()
        }

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

    def _read(self, states: Mapping[Path, FileStamp], progress: Progress) -> dict[Path, str]:
        """The SHA-256 of files that are in these states."""
        if not states:
            return {}
        told = _Reading(list(states), sum(state.size for state in states.values()), progress)
        with ThreadPoolExecutor(min(len(states), _AT_ONCE)) as pool:
            return dict(
                zip(states, pool.map(lambda file: self._of_file(file, states[file], told), states), strict=True)
            )

    def _of_file(self, path: Path, now: FileStamp, told: _Reading) -> str:
        told.more(0)
        digest = file_sha256(path, told.more)
        if _state(path) == now:
            self._memory.put(_KIND, now, digest)
        return digest

    def _recalled(self, now: FileStamp) -> str | None:
        known = self._memory.get(_KIND, now)
        return known if isinstance(known, str) and len(known) == 64 else None


class _Reading:
    """Tells how much of some files is read, by several threads, and stops them where the person asked to."""

    def __init__(self, files: Sequence[Path], total: int, progress: Progress) -> None:
        self._words, self._total, self._progress = _named(files), total, progress
        self._done = 0
        self._lock = threading.Lock()

    def more(self, count: int) -> None:
        """``count`` more bytes are read.

        Raises:
            CancelledError: the person asked to stop.
        """
        check(self._progress)
        with self._lock:
            self._done += count
            self._progress.reading(self._words, min(self._done, self._total), self._total)


def _named(files: Sequence[Path]) -> str:
    """The names of some files in a few words."""
    first, *others = [file.name for file in files]
    if len(others) > 2:
        return f"{first} and {len(others)} more files"
    return f"{', '.join([first, *others[:-1]])} and {others[-1]}" if others else first


def _state(path: Path) -> FileStamp:
    """The state of the file that ``path`` leads to: several links to it share what is remembered."""
    return dataclasses.replace(stamp(path), path=os.path.realpath(path))


def _of_folder(folder: Path, digests: Iterable[tuple[Path, str]]) -> str:
    lines = "".join(f"{digest}  {file.relative_to(folder).as_posix()}\n" for file, digest in digests)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
