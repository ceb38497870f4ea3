"""The header of a GGUF file, checked, and read no further than it goes.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3: named values, then a list of
tensors with shapes in reversed order, then their bytes, each at a multiple of the alignment.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_transfer.errors import BadFileError, UnsupportedError
from lib_transfer.formats.regular_file import OpenFile
from lib_transfer.formats.tensor_info import MAX_DIMENSIONS, MAX_TENSORS, TensorInfo, possible_name

MAX_HEADER = 64 << 20
MAX_VALUES = MAX_TENSORS + 10_000
MAX_TEXTS = 1 << 20
MAX_ELEMENTS = 1 << 48
_CHUNK = 1 << 20

# The names of number formats, the elements that one block of them holds, and its bytes, by their numbers (ggml.h).
FORMATS: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

_SCALARS = {number: struct.Struct("<" + sign) for number, sign in enumerate("BbHhIif?")}
_SCALARS |= {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}
_TEXT, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]
# ComfyUI-GGUF's converter stores what a block size does not divide in another shape, and says the shape here.
_SHAPE = "comfy.gguf.orig_shape."


@dataclass(frozen=True)
class GgufTensor(TensorInfo):
    """One tensor of a file.

    Attributes:
        start: where its bytes begin in the file.
        format: the number of its number format in :data:`FORMATS`.
    """

    start: int
    format: int


def read_gguf_header(file: OpenFile) -> tuple[dict[str, GgufTensor], dict[str, str]]:
    """The tensors, with shapes in torch's order, and the texts among the named values.

    Raises:
        BadFileError: ``truncated``, ``layout``, ``shape``, ``name``, ``duplicate``, ``dtype``, ``gguf_header`` or
            ``too_many``.
        UnsupportedError: another version, or written on a big-endian machine.
        StorageError: the file cannot be read.
    """
    reader = _Reader(file)
    reader.take(4)
    version = reader.number(_U32)
    if version not in (2, 3):
        raise UnsupportedError(f"{reader.path} is GGUF of version {version}; only 2 and 3 are known.")
    tensors, values = reader.number(_U64), reader.number(_U64)
    if tensors > MAX_TENSORS or values > MAX_VALUES:
        raise reader.bad("too_many", f"says that it holds {tensors} tensors and {values} values")
    found = dict(reader.named_value() for _ in range(values))
    shapes = {key.removeprefix(_SHAPE): shape for key, shape in found.items() if key.startswith(_SHAPE)}
    entries = [reader.tensor() for _ in range(tensors)]
    alignment = found.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise reader.bad("gguf_header", "has an impossible alignment")
    start = -(-reader.place // alignment) * alignment
    infos: dict[str, GgufTensor] = {}
    for name, dimensions, kind, offset in entries:
        if name in infos:
            raise reader.bad("duplicate", f"names {name!r} twice")
        infos[name] = _placed(reader, name, dimensions, kind, start + offset, shapes.get(name))
    return infos, {key: value for key, value in found.items() if isinstance(value, str)}


def _placed(
    reader: _Reader, name: str, dimensions: tuple[int, ...], kind: int, start: int, shape: object
) -> GgufTensor:
    if not possible_name(name):
        raise reader.bad("name", f"has a tensor with an impossible name, {name[:40]!r}")
    if kind not in FORMATS:
        raise reader.bad("dtype", f"has {name!r} in the unknown number format {kind}")
    title, block, size = FORMATS[kind]
    count = math.prod(dimensions)
    if len(dimensions) > MAX_DIMENSIONS or count > MAX_ELEMENTS or (dimensions[0] if dimensions else 1) % block:
        raise reader.bad("shape", f"has an impossible shape for {name!r}")
    if shape is not None and not (isinstance(shape, tuple) and min(shape, default=1) > 0 and math.prod(shape) == count):
        raise reader.bad("shape", f"has two shapes for {name!r}")
    nbytes = count // block * size
    if start + nbytes > reader.size:
        raise reader.bad("truncated", f"is cut off before the end of {name!r}")
    return GgufTensor(title, shape or dimensions[::-1], nbytes, start, kind)


class _Reader:
    """Reads a header from its beginning on, a piece at a time."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._piece = b""
        self._from = 0
        self.path = file.stamp.path
        self.size = file.stamp.size
        self.place = 0

    def bad(self, reason: str, what: str) -> BadFileError:
        """An error about this file."""
        hint = "The file is damaged or its download was interrupted; download it again."
        return BadFileError(f"{self.path} {what}.", reason=reason, hint=hint)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.place + count
        if end > min(self.size, MAX_HEADER):
            raise self.bad("truncated" if end > self.size else "too_many", "has a header that does not end")
        if end > self._from + len(self._piece):
            self._from = self.place
            self._piece = bytes(self._file.read(self.place, min(max(count, _CHUNK), self.size - self.place)))
        piece = self._piece[self.place - self._from : end - self._from]
        self.place = end
        return piece

    def number(self, form: struct.Struct) -> Any:
        """The next number."""
        return form.unpack(self.take(form.size))[0]

    def text(self) -> str:
        """The next text."""
        return self.take(self.number(_U64)).decode("utf-8", "replace")

    def named_value(self) -> tuple[str, object]:
        """The next name and its value; an array of whole numbers as a tuple, None for any other."""
        name = self.text()
        kind = self.number(_U32)
        if kind == _TEXT:
            return name, self.text()
        if kind == _ARRAY:
            return name, self._array(name)
        if kind not in _SCALARS:
            raise self.bad("gguf_header", f"has a value of the unknown kind {kind}")
        return name, self.number(_SCALARS[kind])

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, dimensions (the fastest first), number format and offset of the next tensor."""
        name = self.text()
        dimensions = self.number(_U32)
        if dimensions > MAX_DIMENSIONS:
            raise self.bad("shape", f"has {name[:40]!r} with {dimensions} dimensions")
        shape = tuple(self.number(_U64) for _ in range(dimensions))
        return name, shape, self.number(_U32), self.number(_U64)

    def _array(self, name: str) -> tuple[int, ...] | None:
        kind, count = self.number(_U32), self.number(_U64)
        if kind == _TEXT:
            if count > MAX_TEXTS:
                raise self.bad("too_many", f"has {count} texts in {name[:40]!r}")
            for _ in range(count):
                self.take(self.number(_U64))
            return None
        if kind not in _SCALARS:
            raise self.bad("gguf_header", f"has an array of the unknown kind {kind}")
        form = _SCALARS[kind]
        if name.startswith(_SHAPE) and count <= MAX_DIMENSIONS and form.format.lower() in ("<i", "<q"):
            return tuple(self.number(form) for _ in range(count))
        self.take(count * form.size)
        return None
