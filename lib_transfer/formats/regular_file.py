"""Opening a file that a stranger named: only regular files, never blocking, and always the same errors."""

from __future__ import annotations

import errno
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lib_transfer.errors import BadFileError, NotEnoughMemoryError, StorageError


@dataclass(frozen=True)
class FileStamp:
    """What tells one state of a file from another without reading it; two stamps are equal while nobody rewrote it."""

    path: str
    size: int
    mtime_ns: int
    inode: int


def open_regular(path: str | os.PathLike[str]) -> tuple[BinaryIO, FileStamp]:
    """Open ``path`` for reading and say which state of it was opened.

    A pipe, a device or a directory is refused without waiting for it.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the system does not let us read it.
    """
    name = os.fspath(path)
    try:
        if Path(name).is_dir():  # Windows answers a permission error for a folder, which would mislead
            raise _not_a_file(name)
        # Without O_NONBLOCK the open of a pipe waits for a writer for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(name, flags)
    except ValueError as error:
        if isinstance(error, BadFileError):
            raise
        raise BadFileError(f"{name!r} cannot be the name of a file.", reason="missing") from error
    except OSError as error:
        raise _open_error(name, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(name)
        stream = os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise
    return stream, FileStamp(name, status.st_size, status.st_mtime_ns, status.st_ino)


def stamp(path: str | os.PathLike[str]) -> FileStamp:
    """The state ``path`` is in now.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the system does not let us read it.
    """
    stream, state = open_regular(path)
    stream.close()
    return state


def is_still(state: FileStamp) -> bool:
    """Whether the file is in this state, from one look at its name; :func:`stamp` says what is wrong where it is not."""
    try:
        now = os.stat(state.path)  # noqa: PTH116 - asked for every tensor
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(now.st_mode) and (now.st_size, now.st_mtime_ns, now.st_ino) == (
        state.size,
        state.mtime_ns,
        state.inode,
    )


class OpenFile:
    """A file that is held open, at any place of which any number of threads may read.

    Args:
        path: the file.

    Attributes:
        stamp: the state in which it was opened.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the system does not let us read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._stream, self.stamp = open_regular(path)
        self._seeking = threading.Lock()

    def read(self, place: int, count: int) -> bytearray:
        """The ``count`` bytes at ``place``, all of them.

        Raises:
            BadFileError: ``changed``, when the file ends earlier than it did when it was opened.
            StorageError: the disk or the network failed, or the file was closed.
            NotEnoughMemoryError: that many bytes do not fit in memory.
        """
        try:
            buffer = bytearray(count)
        except MemoryError:
            raise NotEnoughMemoryError(f"{count >> 20} MB of {self.stamp.path} do not fit in memory.") from None
        with self._seeking:
            self._need_open()
            read_exactly(self._stream, place, memoryview(buffer), self.stamp.path)
        return buffer

    def need_whole(self) -> None:
        """Raise if it was closed, or is shorter than when it was opened: touching a mapping beyond the end kills.

        Raises:
            BadFileError: ``changed``.
            StorageError: it was closed.
        """
        with self._seeking:
            self._need_open()
            if os.fstat(self._stream.fileno()).st_size < self.stamp.size:
                raise changed_error(self.stamp.path)

    def close(self) -> None:
        """Let go of the file; closing twice does no harm."""
        with self._seeking:
            self._stream.close()

    def _need_open(self) -> None:
        if self._stream.closed:
            raise StorageError(f"{self.stamp.path} was closed.")

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_exactly(stream: BinaryIO, offset: int, buffer: memoryview, name: str) -> None:
    """Fill ``buffer`` with the bytes at ``offset``.

    Raises:
        BadFileError: ``changed``, when the file ends earlier than it did when it was opened.
        StorageError: the disk or the network failed.
    """
    try:
        stream.seek(offset)
        done = 0
        while done < len(buffer):
            count = stream.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                raise changed_error(name)
            done += count
    except BadFileError:
        raise
    except (OSError, ValueError) as error:
        raise StorageError(f"{name} could not be read: {error}.") from error


def changed_error(name: str) -> BadFileError:
    """The error for a file that is not what it was when its header was read."""
    return BadFileError(
        f"{name} changed while it was being read.",
        reason="changed",
        hint="Another program is writing it; try again when it is done.",
    )


def _not_a_file(name: str) -> BadFileError:
    return BadFileError(f"{name} is a folder, a pipe or a device, not a file.", reason="not_a_file")


def _open_error(name: str, error: OSError) -> BadFileError | StorageError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}:
        return BadFileError(f"{name} does not exist.", reason="missing", hint="It may have been moved or renamed.")
    if error.errno == errno.ENXIO:  # a socket
        return _not_a_file(name)
    return StorageError(
        f"{name} cannot be opened: {error.strerror or error}.", hint="Check the permissions of the file and its folder."
    )
