"""A model in one ``.safetensors`` file."""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_transfer.errors import TransferError
from lib_transfer.formats.regular_file import OpenFile, stamp
from lib_transfer.formats.safetensors_file import Header, PlacedTensor, header_of
from lib_transfer.formats.stores.store import Contents, Store, row_range
from lib_transfer.formats.tensor_info import ITEM_SIZE, torch_dtype

# What the library has been seen to raise when a file is sound but it cannot map or represent it.
_LIBRARY_FAILED = (SafetensorError, OSError, RuntimeError, MemoryError, AttributeError, TypeError, ValueError)


class SafetensorsStore(Store):
    """The tensors of a ``.safetensors`` file.

    Args:
        path: the file.

    Raises:
        BadFileError: as :func:`~.safetensors_file.read_header`.
        StorageError: the system does not let us read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = OpenFile(path)
        try:
            self._header = header_of(self._file)
        except TransferError:
            self._file.close()
            raise
        header = self._header
        self.contents = Contents(header.path, header.tensors, header.metadata, (header.stamp,), _notes(header))
        self._mapping = threading.Lock()
        self._library: Any = None
        self._mapped = False

    def close(self) -> None:
        """Let go of the file."""
        self._library = None
        self._file.close()

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        info = self._header.tensors[key]
        own = torch_dtype(info.dtype, key)
        self._file.need_whole()
        # Rows are read plainly: the library's slices depend on its version, and old ones on torch's as well.
        if rows is None and (library := self._map()) is not None:
            try:
                tensor: Tensor = library.get_tensor(key)
                return tensor
            except _LIBRARY_FAILED:
                self._library = None  # plain reading needs no mapping, and works on every file that was accepted
        return self._load_plainly(info, own, rows)

    def _map(self) -> Any:
        """The library's view of the file; None where the file cannot be mapped (network drives, address limits)."""
        with self._mapping:
            if not self._mapped:
                self._mapped = True
                self._library = _map_file(self.path) if self._in_place() else None
            return self._library

    def _in_place(self) -> bool:
        """Whether the name still stands for the file that is open."""
        try:
            return stamp(self.path) == self._header.stamp
        except TransferError:
            return False

    def _load_plainly(self, info: PlacedTensor, dtype: torch.dtype, rows: tuple[int, int] | None) -> Tensor:
        first, last = row_range(info.shape, rows)
        row = math.prod(info.shape[1:]) * ITEM_SIZE[info.dtype]
        shape = (last - first, *info.shape[1:]) if info.shape else ()
        if not (last - first) * row:
            return torch.empty(shape, dtype=dtype)
        data = self._file.read(self._header.data_start + info.start + first * row, (last - first) * row)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)


def _notes(header: Header) -> tuple[str, ...]:
    if not header.no_texts:
        return ()
    first = ", ".join(header.no_texts[:3]) + (", ..." if len(header.no_texts) > 3 else "")
    return (
        f"{len(header.no_texts)} of its metadata are no texts ({first}). They are read all the same, but A1111 and Forge "
        "cannot load such a file: save it anew with texts alone.",
    )


def _map_file(path: str) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except _LIBRARY_FAILED:
        return None
