"""A model in one GGUF file, decoded a tensor or some rows of one at a time by the package ``gguf``, which Forge ships."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from lib_transfer.errors import TransferError, UnsupportedError
from lib_transfer.formats.regular_file import OpenFile
from lib_transfer.formats.stores.gguf_header import FORMATS, GgufTensor, read_gguf_header
from lib_transfer.formats.stores.store import Contents, Store, row_range
from lib_transfer.formats.tensor_info import ITEM_SIZE, torch_dtype

# How many elements are decoded at once; decoding takes several times their memory.
_AT_ONCE = 1 << 20


class GgufStore(Store):
    """The tensors of a GGUF file, codes as the float32 numbers that they stand for.

    Args:
        path: the file.

    Raises:
        BadFileError: as :func:`~.gguf_header.read_gguf_header`.
        UnsupportedError: it holds codes and the package ``gguf`` is not there or does not know them.
        StorageError: the system does not let us read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = OpenFile(path)
        try:
            self._tensors, metadata = read_gguf_header(self._file)
            coded = {info.format for info in self._tensors.values() if info.dtype not in ITEM_SIZE}
            self._quants = _decoder(self._file.stamp.path, coded) if coded else None
        except TransferError:
            self._file.close()
            raise
        self.contents = Contents(self._file.stamp.path, self._tensors, metadata, (self._file.stamp,))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        info = self._tensors[key]
        first, last = row_range(info.shape, rows)
        row = math.prod(info.shape[1:])
        shape = (last - first, *info.shape[1:]) if info.shape else ()
        if info.dtype not in ITEM_SIZE:
            return self._decoded(info, first * row, last * row).reshape(shape)
        own = torch_dtype(info.dtype, key)
        if not (last - first) * row:
            return torch.empty(shape, dtype=own)
        size = ITEM_SIZE[info.dtype]
        data = self._file.read(info.start + first * row * size, (last - first) * row * size)
        return torch.frombuffer(data, dtype=torch.uint8).view(own).reshape(shape)

    def _decoded(self, info: GgufTensor, start: int, end: int) -> Tensor:
        """The elements from ``start`` to ``end``, counted through the tensor, in float32."""
        _, block, size = FORMATS[info.format]
        numbers = torch.empty(end - start)
        for at in range(start // block * block, end, _AT_ONCE):
            blocks = -(-(min(at + _AT_ONCE, end) - at) // block)
            data = self._file.read(info.start + at // block * size, blocks * size)
            piece = _decode(self._quants, info.format, data)[max(start - at, 0) : end - at]
            place = max(at - start, 0)
            numbers[place : place + len(piece)] = piece
        return numbers


def _decoder(path: str, formats: set[int]) -> Any:
    """The part of the package ``gguf`` that decodes, known to decode all of ``formats``."""
    try:
        from gguf import quants  # noqa: PLC0415 - not every host has it
    except ImportError:
        raise UnsupportedError(
            f"{path} holds GGUF codes, and the Python package gguf, which decodes them, is not here.",
            hint="Forge has it; else use the safetensors file of the same model.",
        ) from None
    for number in sorted(formats):
        title, block, size = FORMATS[number]
        try:
            known = len(_decode(quants, number, bytearray(size))) == block
        except (NotImplementedError, ValueError, KeyError, TypeError, AttributeError):
            known = False
        if not known:
            raise UnsupportedError(
                f"{path} holds {title} codes, which the Python package gguf here does not decode.",
                hint="Use the same model in another form, such as Q8_0 or safetensors.",
            )
    return quants


def _decode(quants: Any, number: int, data: bytearray) -> Tensor:
    """The numbers that whole blocks stand for."""
    from gguf import GGMLQuantizationType  # noqa: PLC0415 - as above

    codes = torch.frombuffer(data, dtype=torch.uint8).reshape(1, -1).numpy()
    numbers: Tensor = torch.from_numpy(quants.dequantize(codes, GGMLQuantizationType(number))).reshape(-1)
    return numbers
