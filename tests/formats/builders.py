"""Files made byte by byte, without the code under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.unread import EMBEDDING

CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
CODES |= {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.bool: "BOOL", torch.uint8: "U8"}
CODES |= {torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"}


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), start: int = 0, end: int = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with ``header`` (an object for JSON, or bytes) and ``data``; ``length`` overrides the true length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + data


def file_bytes(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    document: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        piece = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        document[name] = entry(CODES[tensor.dtype], tuple(tensor.shape), len(data), len(data) + len(piece))
        data += piece
    return raw(document, data)


def accounted(adapter: Adapter) -> bool:
    """Whether every tensor of the file is either in one group or embedding, or reported once as not read."""
    read = [key for group in adapter.groups.values() for key in group.keys.values()]
    bundled = [f"{EMBEDDING}{name}.{suffix}" for name, suffixes in adapter.embeddings.items() for suffix in suffixes]
    reported = [key for unread in adapter.unsupported for key in unread.tensors]
    return sorted(read + bundled + reported) == sorted(adapter.header.tensors)


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(file_bytes(tensors, metadata))
    return path


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def lora(name: str, out: int = 5, rank: int = 2, wide: int = 3, alpha: float | None = 1.0) -> dict[str, Tensor]:
    tensors = {
        f"{name}.lora_up.weight": random(out, rank, seed=1),
        f"{name}.lora_down.weight": random(rank, wide, seed=2),
    }
    return tensors if alpha is None else {**tensors, f"{name}.alpha": torch.tensor(alpha)}
