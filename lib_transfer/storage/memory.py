"""What was found out about files, remembered between runs: hashes, and what their headers say.

One SQLite table in the cache folder, with a row per file and kind of fact. A row holds for as long as the file's size,
modification time and inode stay the same. Any number of threads and processes may share the table; a process that is killed
leaves it sound. Without it everything is found out anew, so a table that cannot be used is never an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import threading
import zlib
from pathlib import Path
from typing import Any

from lib_transfer.formats.identity import FileStamp

TIMEOUT = 3.0
"""Seconds to wait for another process that is writing; after that this process remembers for itself."""

MAX_ROWS = 200_000
"""How many of the newest rows :meth:`FileMemory.prune` leaves."""

# A new format takes a new name. The rollback journal, not a write-ahead log: that needs memory shared by all processes,
# and those of a cluster run on several machines.
_NAME = "files-1.sqlite3"
_SCHEMA = """
PRAGMA trusted_schema = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS facts (
    kind TEXT, path BLOB, state TEXT, value TEXT, checksum INTEGER, PRIMARY KEY (kind, path) ON CONFLICT REPLACE
);
"""
# Python raises UnicodeError for the words of a damaged schema.
_FAILURES = (sqlite3.Error, OSError, UnicodeError)
# With these the file itself may be sound, so it stays.
_PASSING = ("locked", "full", "I/O")

_OLD_INDEX = "file-index.json"
_OLD_HASH = re.compile(r"[0-9a-f]{64}\.json")


class FileMemory:
    """Facts about files in a database in ``folder``, which is created when the first fact is remembered.

    A damaged database is replaced. One that cannot be written, or that another process keeps locked, is left alone, and
    facts are then remembered for as long as this object lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / _NAME
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def get(self, kind: str, stamp: FileStamp) -> Any:
        """The value remembered of a file in this state; None where there is none that can be trusted.

        Args:
            kind: what sort of fact it is.
            stamp: the file's state now, under an absolute path.
        """
        key = (kind, os.fsencode(stamp.path))
        with self._lock:
            if self._database is None and not self._file.is_file():
                return None
            rows = self._run("SELECT state, value, checksum FROM facts WHERE kind = ? AND path = ?", key)
        for state, value, checksum in rows:
            if state == _state(stamp) and isinstance(value, str) and checksum == _checksum(*key, state, value):
                with contextlib.suppress(ValueError, RecursionError):
                    return json.loads(value)
        return None

    def put(self, kind: str, stamp: FileStamp, value: Any) -> None:
        """Remember a value, which must be JSON, of a file in this state; what was known of other states is forgotten."""
        key, text = (kind, os.fsencode(stamp.path)), json.dumps(value)
        row = (*key, _state(stamp), text, _checksum(*key, _state(stamp), text))
        with self._lock:
            self._run("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", row)

    def prune(self) -> None:
        """Forget the oldest facts where there are very many, and remove what older versions kept facts in."""
        for path in (self.folder / _OLD_INDEX, *(self.folder / "files").glob("*.json")):
            if path.name == _OLD_INDEX or _OLD_HASH.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    path.unlink()
        with self._lock:
            if self._database is not None or self._file.is_file():
                self._run("DELETE FROM facts WHERE rowid <= (SELECT max(rowid) FROM facts) - ?", (MAX_ROWS,))

    def clear(self) -> None:
        """Forget everything, what older versions kept too."""
        with self._lock:
            self._remove()
        self.prune()

    def _run(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The rows that a statement gives, in a transaction of its own."""
        try:
            return self._opened().execute(statement, values).fetchall()
        except _FAILURES as error:
            if not any(words in str(error) for words in _PASSING):
                self._remove()
                with contextlib.suppress(*_FAILURES):
                    return self._opened().execute(statement, values).fetchall()
        self._close()
        with contextlib.suppress(OSError):
            if not self._file.stat().st_size:  # a full disk let it be created, and no more
                self._file.unlink()
        self._database = _opened_at(":memory:")
        return self._database.execute(statement, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._database = _opened_at(str(self._file))
        return self._database

    def _remove(self) -> None:
        self._close()
        for path in (self._file, self._file.with_name(f"{_NAME}-journal")):
            with contextlib.suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def __reduce__(self) -> tuple[type[FileMemory], tuple[Path]]:
        """Another process opens the database for itself."""
        return FileMemory, (self.folder,)

    def __del__(self) -> None:
        self._close()


def _opened_at(name: str) -> sqlite3.Connection:
    # No isolation level: every statement commits by itself. The lock of the memory keeps its threads apart.
    database = sqlite3.connect(name, timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _state(stamp: FileStamp) -> str:
    # As text: an inode may have 64 bits without a sign, one more than SQLite's numbers.
    return f"{stamp.size} {stamp.mtime_ns} {stamp.inode}"


def _checksum(kind: str, path: bytes, state: str, value: str) -> int:
    """SQLite has none of its own: without it a damaged page could answer with another file's hash."""
    return zlib.crc32(b"\0".join([kind.encode(), path, state.encode(), value.encode()]))
