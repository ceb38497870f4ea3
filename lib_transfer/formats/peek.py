"""A look into a safetensors header without decoding it: for thousands of files, of which few are of interest."""

from __future__ import annotations

import os

from lib_transfer.formats.regular_file import open_regular, read_exactly
from lib_transfer.formats.safetensors_file import MAX_HEADER


def header_mentions(path: str | os.PathLike[str], text: str) -> bool:
    """Whether the ASCII ``text`` stands anywhere in the header of the file at ``path``; False for what has no header.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the system does not let us read it.
    """
    stream, state = open_regular(path)
    with stream:
        head = bytearray(min(8, state.size))
        read_exactly(stream, 0, memoryview(head), state.path)
        length = int.from_bytes(head, "little")
        if not 0 < length <= min(MAX_HEADER, state.size - 8):
            return False
        header = bytearray(length)
        read_exactly(stream, 8, memoryview(header), state.path)
    return text.encode("ascii") in header
