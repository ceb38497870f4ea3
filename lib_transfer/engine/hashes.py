"""Content hashes of whole files, remembered between runs.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_transfer.formats.identity import FileStamp, file_sha256, stamp


class Hashes:
    """SHA-256 of files, remembered in ``folder`` (one small JSON file each; damaged ones are computed anew)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sha256(self, path: Path, cancelled: Callable[[], bool] = lambda: False) -> str:
        """SHA-256 of the file at ``path`` in hex.

        Raises:
            StorageError: the file cannot be read.
            CancelledError: ``cancelled`` said so.
        """
        now = stamp(path)
        memory = self._memory(path)
        known = _recall(memory, now)
        if known is not None:
            return known
        digest = file_sha256(path, cancelled)
        if stamp(path) == now:
            _remember(memory, now, digest)
        return digest

    def recalled(self, path: Path) -> str | None:
        """The SHA-256 of the file at ``path`` where it is remembered; nothing is computed.

        Raises:
            StorageError: the file cannot be looked at.
        """
        return _recall(self._memory(path), stamp(path))

    def _memory(self, path: Path) -> Path:
        name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / "files" / f"{name}.json"


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
