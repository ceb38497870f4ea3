"""The hashes by which checkpoints and adapters are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO

from lib_transfer.errors import BadFileError, StorageError
from lib_transfer.formats.regular_file import FileStamp, open_regular, read_exactly, stamp

__all__ = ["FileStamp", "addnet_hash", "file_sha256", "legacy_a1111_hash", "stamp"]

_CHUNK = 4 << 20
LEGACY_OFFSET = 0x100000
LEGACY_LENGTH = 0x10000


def file_sha256(path: str | os.PathLike[str], read: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a whole file in hex; its first ten digits are the hash that the hosts show for a checkpoint.

    Args:
        path: the file.
        read: a function that is told the number of bytes of every piece that was read; what it raises stops the reading.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the file cannot be read.
    """
    stream, _ = open_regular(path)
    with stream:
        return _digest(stream, 0, None, read)


def legacy_a1111_hash(path: str | os.PathLike[str]) -> str:
    """The old eight-digit hash of the WebUI (``ss_sd_model_hash``): 64 KiB from the second megabyte on.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the file cannot be read.
    """
    stream, _ = open_regular(path)
    with stream:
        return _digest(stream, LEGACY_OFFSET, LEGACY_LENGTH)[:8]


def addnet_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of everything after the safetensors header: the hash the hosts show for an adapter.

    Raises:
        BadFileError: ``missing``, ``not_a_file``, or ``truncated`` when no header fits in the file.
        StorageError: the file cannot be read.
    """
    stream, state = open_regular(path)
    with stream:
        head = bytearray(min(8, state.size))
        read_exactly(stream, 0, memoryview(head), state.path)
        start = 8 + int.from_bytes(head, "little")
        if not 8 < start <= state.size:
            raise BadFileError(f"{state.path} has no safetensors header.", reason="truncated")
        return _digest(stream, start, None)


def _digest(stream: BinaryIO, offset: int, length: int | None, read: Callable[[int], None] | None = None) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        stream.seek(offset)
        while length is None or length > 0:
            count = stream.readinto(view if length is None else view[:length])  # type: ignore[attr-defined]
            if not count:
                break
            digest.update(view[:count])
            if read is not None:
                read(count)
            length = None if length is None else length - count
    except OSError as error:
        raise StorageError(f"The file could not be read to the end: {error}.") from error
    return digest.hexdigest()
