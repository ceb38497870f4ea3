"""A checkpoint that stays on disk: one tensor, or some rows of one, in memory at a time."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_transfer.errors import BadFileError, NotEnoughMemoryError, StorageError, UnsupportedError
from lib_transfer.formats.regular_file import changed_error, open_regular, read_exactly
from lib_transfer.formats.safetensors_file import ITEM_SIZE, Header, TensorInfo, read_header

TORCH_NAME: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}

# What the library has been seen to raise when a file is sound but it cannot map or represent it.
_LIBRARY_FAILED = (SafetensorError, OSError, RuntimeError, MemoryError, AttributeError, TypeError, ValueError)


class CheckpointFile:
    """The tensors of a single-file ``.safetensors`` checkpoint, read when asked for.

    Any number of threads may read at once. Tensors are copies: none keeps the file mapped or open.

    Args:
        path: the file.

    Raises:
        BadFileError: as :func:`~.safetensors_file.read_header`, or ``empty`` when no tensor is in it.
        StorageError: the system does not let us read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.header: Header = read_header(path)
        if not self.header.tensors:
            raise BadFileError(f"{self.header.path} holds no tensors.", reason="empty")
        self.shapes: Mapping[str, tuple[int, ...]] = {name: info.shape for name, info in self.header.tensors.items()}
        self._library: Any = _map_file(self.header.path)
        self._stream, state = open_regular(path)
        if state != self.header.stamp:
            self._stream.close()
            raise changed_error(self.header.path)
        self._seeking = threading.Lock()

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts in the header."""
        return self.header.metadata

    def dtype(self, key: str) -> str:
        """The safetensors name of a tensor's number format, such as ``F16``."""
        return self._info(key).dtype

    def bytes_of(self, key: str) -> int:
        """How many bytes a tensor has."""
        info = self._info(key)
        return info.end - info.start

    def read(self, key: str, rows: tuple[int, int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of a tensor, or of its rows ``rows[0]`` up to and without ``rows[1]``.

        Args:
            key: the tensor.
            rows: which of its rows; all when not given.
            dtype: what to convert to, which costs no further copy; its own dtype when not given.

        Raises:
            BadFileError: ``missing_tensor``, ``rows``, or ``changed`` when the file was cut meanwhile.
            UnsupportedError: this torch has no such number format.
            StorageError: the disk or the network failed, or the file was closed.
        """
        info = self._info(key)
        own = _torch_dtype(info.dtype, key)
        if rows is not None and not (info.shape and 0 <= rows[0] <= rows[1] <= info.shape[0]):
            raise BadFileError(f"{key} has shape {list(info.shape)}, so no rows {rows}.", reason="rows")
        if self._stream.closed:
            raise StorageError(f"{self.header.path} was closed.")
        if os.fstat(self._stream.fileno()).st_size < self.header.size:  # touching a mapping beyond the end kills
            raise changed_error(self.header.path)
        # Rows are read plainly: the library's slices depend on its version, and old ones on torch's as well.
        if rows is None and (library := self._library) is not None:
            try:
                tensor: Tensor = library.get_tensor(key)
                return tensor.to(dtype or own, copy=True)
            except _LIBRARY_FAILED:
                self._library = None  # plain reading needs no mapping, and works on every file that was accepted
        return self._read_plainly(info, own, rows).to(dtype or own)

    def close(self) -> None:
        """Let go of the file; tensors already read stay valid."""
        self._library = None
        self._stream.close()

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _info(self, key: str) -> TensorInfo:
        try:
            return self.header.tensors[key]
        except KeyError:
            raise BadFileError(f"{self.header.path} holds no tensor {key}.", reason="missing_tensor") from None

    def _read_plainly(self, info: TensorInfo, dtype: torch.dtype, rows: tuple[int, int] | None) -> Tensor:
        first, last = rows if rows is not None else (0, info.shape[0] if info.shape else 1)
        row = math.prod(info.shape[1:]) * ITEM_SIZE[info.dtype]
        shape = (last - first, *info.shape[1:]) if info.shape else ()
        try:
            buffer = bytearray((last - first) * row)
        except MemoryError:
            raise NotEnoughMemoryError(f"A tensor of {(last - first) * row >> 20} MB does not fit in memory.") from None
        if not buffer:
            return torch.empty(shape, dtype=dtype)
        with self._seeking:
            place = self.header.data_start + info.start + first * row
            read_exactly(self._stream, place, memoryview(buffer), self.header.path)
        return torch.frombuffer(buffer, dtype=torch.uint8).view(dtype).reshape(shape)


def _map_file(path: str) -> Any:
    """The library's view of the file, or None where the file cannot be mapped (network drives, address limits)."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except _LIBRARY_FAILED:
        return None


def _torch_dtype(name: str, key: str) -> torch.dtype:
    dtype = getattr(torch, TORCH_NAME[name], None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedError(f"{key} is stored as {name}, which torch {torch.__version__} cannot hold.")
    return dtype
