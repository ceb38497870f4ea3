"""What everything above asks of a model on disk, whatever form it comes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from lib_transfer.errors import BadFileError
from lib_transfer.formats.regular_file import FileStamp, changed_error, is_still, stamp
from lib_transfer.formats.tensor_info import TensorInfo

S = TypeVar("S", bound="Store")


@dataclass(frozen=True)
class Contents:
    """What a model on disk says of itself.

    Attributes:
        path: the file or folder, as it was named.
        tensors: what is said of each tensor, by name.
        metadata: the texts by key.
        stamps: the states of its files when they were opened; they tell whether it is still the model that was read.
        notes: sentences about what is unusual in the way that the file says it.
        in_file: the name of each tensor in the file, where it is read under another one.
    """

    path: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    stamps: tuple[FileStamp, ...]
    notes: tuple[str, ...] = ()
    in_file: Mapping[str, str] = field(default_factory=dict)

    def name_in_file(self, key: str) -> str:
        """The name that a tensor has in the file, for a person who looks for it there."""
        return self.in_file.get(key, key)


class Store(ABC):
    """The tensors of a model that stays on disk: one of them, or some rows of one, in memory at a time.

    Any number of threads may read at once. Tensors are copies: none keeps a file mapped or open.

    Attributes:
        contents: what is in it.
    """

    contents: Contents

    @property
    def path(self) -> str:
        """The file or folder, as it was named."""
        return self.contents.path

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts that come with the tensors."""
        return self.contents.metadata

    @property
    def stamps(self) -> tuple[FileStamp, ...]:
        """The states of its files when they were opened."""
        return self.contents.stamps

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor, by name."""
        return {key: info.shape for key, info in self.contents.tensors.items()}

    def dtype(self, key: str) -> str:
        """The name of the number format a tensor is stored in, such as ``F16``."""
        return self.info(key).dtype

    def info(self, key: str) -> TensorInfo:
        """What is said of one tensor.

        Raises:
            BadFileError: ``missing_tensor``.
        """
        try:
            return self.contents.tensors[key]
        except KeyError:
            raise BadFileError(f"{self.path} holds no tensor {key}.", reason="missing_tensor") from None

    def read(self, key: str, rows: tuple[int, int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of a tensor, or of its rows ``rows[0]`` up to and without ``rows[1]``, in memory that torch allocated.

        Args:
            key: the tensor.
            rows: which of its rows; all when not given.
            dtype: what to convert to; when not given the dtype it is stored in, float32 where that is a code.

        Raises:
            BadFileError: ``missing_tensor``, ``rows``, or ``changed`` when the file was cut meanwhile.
            UnsupportedError: this torch has no such number format.
            StorageError: the disk or the network failed, or the file was closed.
        """
        shape = self.info(key).shape
        if rows is not None and not (shape and 0 <= rows[0] <= rows[1] <= shape[0]):
            raise BadFileError(f"{key} has shape {list(shape)}, so no rows {rows}.", reason="rows")
        tensor = self._load(key, rows)
        # Always a copy: torch's own memory is aligned, and the last bits of products depend on that.
        return tensor.to(dtype or tensor.dtype, copy=True)

    @abstractmethod
    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        """A tensor that is there, or such rows of it: contiguous, in whatever memory."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files; tensors already read stay valid. Closing twice does no harm."""

    def need_unchanged(self) -> None:
        """Raise if a file is no longer the one that was opened.

        Raises:
            BadFileError: ``changed``, or ``missing``.
            StorageError: the system does not let us look.
        """
        for opened in self.stamps:
            if not is_still(opened) and stamp(opened.path) != opened:
                raise changed_error(opened.path)

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JoinedStore(Store):
    """A store, and tensors of others under names of this one.

    Args:
        first: the store whose path and metadata it has.
        others: further stores, with the names under which their tensors stand here.
        hidden: tensors of the first that others stand for.
    """

    def __init__(
        self, first: Store, others: Sequence[tuple[Store, Mapping[str, str]]], hidden: Collection[str] = ()
    ) -> None:
        self._stores = (first, *(store for store, _ in others))
        self._places = {key: (first, key) for key in first.contents.tensors if key not in hidden}
        for store, names in others:
            self._places |= {name: (store, key) for name, key in names.items()}
        tensors = {name: store.info(key) for name, (store, key) in self._places.items()}
        stamps = tuple(stamp for store in self._stores for stamp in store.stamps)
        self.contents = replace(first.contents, tensors=tensors, stamps=stamps)

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        store, own = self._places[key]
        return store._load(own, rows)

    def close(self) -> None:
        for store in self._stores:
            store.close()


def row_range(shape: tuple[int, ...], rows: tuple[int, int] | None) -> tuple[int, int]:
    """The first row and the one after the last; a scalar counts as one row."""
    return rows if rows is not None else (0, shape[0] if shape else 1)
