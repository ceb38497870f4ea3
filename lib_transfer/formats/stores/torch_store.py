"""A model in one archive of PyTorch (``.ckpt``, ``.pt``, ``.bin``), read without running any of it.

``torch.save`` writes a zip archive since PyTorch 1.6: a pickle that describes the tensors, ``data.pkl``, and the bytes of
each storage in a file of its own, uncompressed (``torch/serialization.py``).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lib_transfer.errors import BadFileError, TransferError, UnsupportedError
from lib_transfer.formats.regular_file import OpenFile
from lib_transfer.formats.stores.store import Contents, Store, row_range
from lib_transfer.formats.stores.torch_pickle import StoredTensor, named_tensors, read_pickle
from lib_transfer.formats.stores.zip_directory import Member, place_of, read_directory
from lib_transfer.formats.tensor_info import ITEM_SIZE, TensorInfo, torch_dtype

# How much larger than its storage a tensor may be that repeats numbers, as an expanded one does.
MAX_REPEATED = 16 << 20

_MEMBER = re.compile(
    r"data/\d+|data\.pkl|version|byteorder|\.(?:data/serialization_id|format_version|storage_alignment)"
)
_PROGRAM = re.compile(r"code/.*|constants\.pkl")
# Same sizes, for which every torch has every operation.
_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_TRUST = "Nothing of it was run. Convert it to safetensors where you trust it, or do without it."


class TorchStore(Store):
    """The tensors of a PyTorch archive: of its ``state_dict`` where it has one, however deep, else of the whole.

    Dicts in dicts give names with dots. What is no tensor is left out.

    Args:
        path: the file.

    Raises:
        BadFileError: it is damaged, or holds something else than tensors and the harmless leftovers of training;
            ``reason`` is one of ``truncated``, ``zip_directory``, ``zip_member``, ``pickle``, ``pickle_global``, ``name``,
            ``layout``, ``duplicate``, ``too_many``, ``changed``.
        UnsupportedError: it is sound, but a program, a list of tensors without names or of a big-endian machine.
        StorageError: the system does not let us read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = OpenFile(path)
        try:
            self._members = _members(self._file)
            self._tensors = self._state_dict()
            infos = {key: self._checked(key, tensor) for key, tensor in self._tensors.items()}
        except TransferError:
            self._file.close()
            raise
        self.contents = Contents(self._file.stamp.path, infos, {}, (self._file.stamp,))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _state_dict(self) -> Mapping[str, StoredTensor]:
        path = self._file.stamp.path
        if (order := self._members.get("byteorder")) is not None and bytes(self._whole(order)) != b"little":
            raise UnsupportedError(f"{path} was written on a big-endian machine, which is not supported.")
        try:
            return named_tensors(read_pickle(bytes(self._whole(self._members["data.pkl"]))))
        except BadFileError as error:
            raise BadFileError(
                f"{path} is not a plain model. {error.message}", reason=error.reason, hint=error.hint or _TRUST
            ) from None
        except UnsupportedError as error:
            raise UnsupportedError(f"{path}: {error.message}", hint=error.hint) from None

    def _whole(self, member: Member) -> bytearray:
        return self._file.read(place_of(self._file, member), member.size)

    def _checked(self, key: str, tensor: StoredTensor) -> TensorInfo:
        """What is said of a tensor, once it is known to lie within its storage and the storage within its file."""
        size = ITEM_SIZE[tensor.dtype]
        member = self._members.get(f"data/{tensor.storage.key}")
        stored = tensor.storage.count * (ITEM_SIZE[tensor.storage.dtype] if tensor.storage.dtype else 1)
        count = math.prod(tensor.shape)
        inside = member is not None and stored <= member.size and (tensor.offset + _span(tensor)) * size <= stored
        if not inside or count * size > max(stored, MAX_REPEATED):
            raise BadFileError(
                f"{self._file.stamp.path} has {key!r} with shape {list(tensor.shape)} beyond its bytes.",
                reason="layout",
                hint="The file is damaged or its download was interrupted; download it again.",
            )
        return TensorInfo(tensor.dtype, tensor.shape, count * size)

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        tensor = self._tensors[key]
        own = torch_dtype(tensor.dtype, key)
        first, last = row_range(tensor.shape, rows)
        shape = (last - first, *tensor.shape[1:]) if tensor.shape else ()
        part = StoredTensor(
            tensor.storage,
            tensor.dtype,
            tensor.offset + (first * tensor.strides[0] if tensor.shape else 0),
            shape,
            tensor.strides,
        )
        count = _span(part)
        if not count:
            return torch.empty(shape, dtype=own)
        size = ITEM_SIZE[tensor.dtype]
        start = place_of(self._file, self._members[f"data/{tensor.storage.key}"])
        data = torch.frombuffer(self._file.read(start + part.offset * size, count * size), dtype=torch.uint8)
        view = data.view(_SAME_SIZE[size]).as_strided(shape, part.strides)
        return view.contiguous().view(own)


def _span(tensor: StoredTensor) -> int:
    """From the first to the last of its numbers, how many elements of its storage there are."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))


def _members(file: OpenFile) -> dict[str, Member]:
    """The files of the archive by their names within its one folder."""
    members = read_directory(file)
    path = file.stamp.path
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        what = f"{path} is a zip archive with {len(pickles)} data.pkl, not a model of PyTorch."
        raise BadFileError(what, reason="zip_member", hint="If a model is in it, unpack it first.")
    folder = pickles[0].removesuffix("data.pkl")
    found = {name.removeprefix(folder): member for name, member in members.items() if name.startswith(folder)}
    if any(_PROGRAM.fullmatch(name) for name in found):
        raise UnsupportedError(f"{path} is a TorchScript program, not a model's weights.")
    for member in members.values():
        if not member.name.startswith(folder) or not _MEMBER.fullmatch(member.name.removeprefix(folder)):
            what = "which no model of PyTorch does"
        elif not member.plain:
            what = "compressed, which PyTorch does not do"
        else:
            continue
        raise BadFileError(f"{path} holds {member.name!r}, {what}.", reason="zip_member", hint=_TRUST)
    return found
