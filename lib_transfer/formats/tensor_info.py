"""What a file says of one tensor, and the number formats by their safetensors names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lib_transfer.errors import UnsupportedError

MAX_TENSORS = 100_000
MAX_NAME = 512
MAX_DIMENSIONS = 5

_IMPOSSIBLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

# Bytes per element, in the safetensors library's own order of dtypes (it writes the last ones first).
ITEM_SIZE: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}

FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})

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


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: the name of its number format, its shape, and how many bytes it has in the file."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def possible_name(name: str) -> bool:
    """Whether a tensor may be named so: not too long, without control characters, and Unicode."""
    return len(name) <= MAX_NAME and _IMPOSSIBLE.search(name) is None


def torch_dtype(name: str, key: str) -> torch.dtype:
    """The torch dtype of the number format ``name``, in which the tensor ``key`` is stored.

    Raises:
        UnsupportedError: this torch has no such number format.
    """
    dtype = getattr(torch, TORCH_NAME[name], None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedError(f"{key} is stored as {name}, which torch {torch.__version__} cannot hold.")
    return dtype
