"""Tensors and metadata as the bytes of a safetensors file: the same input gives the same bytes, always.

The library writes metadata in the random order of a hash map, so the header is made here: metadata first, by key;
tensors in the library's own order (dtypes from wide to narrow, then names), because the hashes that the hosts know a
file by depend on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.errors import RequestError
from lib_transfer.formats.identity import LEGACY_LENGTH, LEGACY_OFFSET
from lib_transfer.formats.tensor_info import ITEM_SIZE, TORCH_NAME

_NAMES = {
    dtype: name for name, text in TORCH_NAME.items() if isinstance(dtype := getattr(torch, text, None), torch.dtype)
}
_RANK = {name: place for place, name in enumerate(ITEM_SIZE)}


@dataclass(frozen=True, eq=False)
class Serialised:
    """A safetensors file that is not written yet.

    Attributes:
        header: the length and the padded JSON.
        tensors: the tensors with their names, in the order of their bytes.
        data_size: how many bytes the tensors have.
    """

    header: bytes
    tensors: tuple[tuple[str, Tensor], ...]
    data_size: int

    @property
    def size(self) -> int:
        """How many bytes the file will have."""
        return len(self.header) + self.data_size

    def data(self) -> Iterator[memoryview]:
        """The bytes of one tensor after the other; only one is copied at a time, if at all."""
        for _, tensor in self.tensors:
            yield _bytes(tensor)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The bytes of the whole file."""
        yield self.header
        yield from self.data()

    def data_sha256(self) -> str:
        """The SHA-256 of the tensors' bytes, which the hosts show as an adapter's hash."""
        digest = hashlib.sha256()
        for piece in self.data():
            digest.update(piece)
        return digest.hexdigest()


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> Serialised:
    """The file that holds ``tensors`` and ``metadata``.

    Args:
        tensors: the tensors by name, on any device; those that are contiguous on the CPU are not copied.
        metadata: the texts by key; None leaves the entry out, as the library does.

    Raises:
        RequestError: a tensor's number format cannot be stored, or a text is not Unicode.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-_RANK[_name_of(*item)], item[0]))
    document: dict[str, object] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    place = 0
    for name, tensor in ordered:
        end = place + tensor.numel() * tensor.element_size()
        entry = {"dtype": _name_of(name, tensor), "shape": list(tensor.shape), "data_offsets": [place, end]}
        document[name] = entry
        place = end
    try:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError("A name or a metadata text holds half of a surrogate pair and cannot be stored.") from error
    text += b" " * (-len(text) % 8)
    return Serialised(len(text).to_bytes(8, "little") + text, tuple(ordered), place)


def sshs_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """``sshs_model_hash`` and ``sshs_legacy_hash`` of a file with these contents.

    As kohya-ss/sd-scripts defines them: both are taken from the bytes of a file whose header holds the ``ss_*`` texts
    only; the first is the SHA-256 of the data, the second the old WebUI hash (64 KiB from the second megabyte on).
    """
    file = serialise(tensors, {key: text for key, text in metadata.items() if key.startswith("ss_")})
    window, place = hashlib.sha256(), 0
    for piece in file.pieces():
        first, last = LEGACY_OFFSET - place, LEGACY_OFFSET + LEGACY_LENGTH - place
        window.update(piece[max(first, 0) : max(last, 0)])
        place += len(piece)
    return file.data_sha256(), window.hexdigest()[:8]


def with_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """``metadata`` with both ``sshs_*`` hashes of ``tensors``, replacing those of another file."""
    model_hash, legacy_hash = sshs_hashes(tensors, metadata)
    return {**metadata, "sshs_model_hash": model_hash, "sshs_legacy_hash": legacy_hash}


def _name_of(name: str, tensor: Tensor) -> str:
    try:
        return _NAMES[tensor.dtype]
    except KeyError:
        raise RequestError(f"{name} has the number format {tensor.dtype}, which cannot be stored.") from None


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    view: memoryview = flat.view(torch.uint8).numpy().data
    return view
