"""What the adapter reader asks of an algorithm, and what algorithms share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.safetensors_file import TensorInfo
from lib_transfer.formats.update import Update

MAX_RANK = 4096
FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})


class Algorithm(ABC):
    """One way of writing a module's update into a file.

    A new algorithm is one file with a subclass, and one entry in the registry.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    #: Whether :meth:`update` needs the weight that the update was trained for.
    needs_base: ClassVar[bool] = False
    #: A module that has any of these suffixes is this algorithm's.
    signature: ClassVar[frozenset[str]]
    #: Further suffixes that it reads when they are there.
    optional: ClassVar[frozenset[str]] = frozenset()

    @property
    def suffixes(self) -> frozenset[str]:
        """Every suffix the algorithm reads."""
        return self.signature | self.optional

    @abstractmethod
    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        """Why a module with these tensors (by suffix) cannot be read, as a sentence; None when it can."""

    @abstractmethod
    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        """The module's update in float32.

        Args:
            tensors: by suffix, as they are in the file; :meth:`problem` found nothing.
            base_weight: the weight it was trained for, where :attr:`needs_base`.

        Raises:
            NumericError: a number does not fit in float32.
        """


def not_floats(infos: Mapping[str, TensorInfo], suffixes: frozenset[str]) -> str | None:
    """A sentence about a tensor among ``suffixes`` that holds no floating-point numbers, or None."""
    for suffix in sorted(infos.keys() & suffixes):
        if infos[suffix].dtype not in FLOATS:
            return f"{suffix} is stored as {infos[suffix].dtype}, which is not a floating-point format."
    return None


def vector(tensor: Tensor | None) -> Tensor | None:
    """A tensor as a float32 vector, or None."""
    return None if tensor is None else finite32(tensor).reshape(-1)


def finite32(tensor: Tensor) -> Tensor:
    """A tensor as contiguous float32; raises :class:`NumericError` when that overflows."""
    single = tensor.to(torch.float32).contiguous()
    if not is_finite(single):
        raise NumericError("A tensor holds numbers beyond the range of float32.")
    return single
