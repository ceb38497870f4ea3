"""Content hashes of checkpoints and adapters, remembered between runs.

A checkpoint's SHA-256 takes seconds to compute and is asked for at every transfer. It is remembered for as long as path,
size, modification time in nanoseconds and inode stay the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lib_transfer.formats.checkpoint import checkpoint_files
from lib_transfer.formats.identity import FileStamp, file_sha256, stamp


class Hashes:
    """SHA-256 of files, remembered in ``folder`` (one small JSON file each; damaged ones are computed anew)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
        known = [(file, _recall(self._memory(file), stamp(file))) for file in files]
        if not path.is_dir():
            return known[0][1]
        digests = [(file, digest) for file, digest in known if digest is not None]
        return _of_folder(path, digests) if len(digests) == len(files) else None

    def _of_file(self, path: Path, cancelled: Callable[[], bool]) -> str:
        now = stamp(path)
        memory = self._memory(path)
        known = _recall(memory, now)
        if known is not None:
            return known
        digest = file_sha256(path, cancelled)
        if stamp(path) == now:
            _remember(memory, now, digest)
        return digest

    def _memory(self, path: Path) -> Path:
        name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / "files" / f"{name}.json"


def _of_folder(folder: Path, digests: Iterable[tuple[Path, str]]) -> str:
    lines = "".join(f"{digest}  {file.relative_to(folder).as_posix()}\n" for file, digest in digests)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _memory_json(now: FileStamp, digest: str) -> dict[str, Any]:
    state = [now.size, now.mtime_ns, now.inode]
    return {"stamp": state, "sha256": digest, "check": zlib.crc32(f"{state} {digest}".encode())}


def _recall(memory: Path, now: FileStamp) -> str | None:
    try:
        known = json.loads(memory.read_text())
        digest = known["sha256"]
        return digest if known == _memory_json(now, digest) and len(digest) == 64 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _remember(memory: Path, now: FileStamp, digest: str) -> None:
    """Best effort: a hash that is not remembered costs time, nothing else."""
    part = memory.with_name(f".{memory.stem[:8]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(_memory_json(now, digest)))
        part.replace(memory)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
