"""What the adapter reader asks of an algorithm, and what algorithms share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.tensor_info import FLOATS, TensorInfo
from lib_transfer.update import Update

MAX_RANK = 4096
#: What the product of factors is multiplied by.
SCALES = ("alpha", "scale", "scalar")
#: The difference of a layer's bias. ComfyUI's trainer and tools that extract a LoRA write it beside any algorithm.
BIAS = "diff_b"


class Shaped(Protocol):
    """A tensor, or what a file's header says of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""


class Algorithm(ABC):
    """One way of writing a module's update into a file.

    A new algorithm is one file with a subclass, and one entry in the registry.
    """

    id: str
    title: str
    #: Whether :meth:`update` needs the weight that the update was trained for.
    needs_base: ClassVar[bool] = False
    #: A module that has any of these suffixes is this algorithm's.
    signature: ClassVar[frozenset[str]]
    #: Further suffixes that it reads when they are there.
    optional: frozenset[str] = frozenset()

    @property
    def suffixes(self) -> frozenset[str]:
        """Every suffix the algorithm reads."""
        return self.signature | self.optional

    def claims(self, infos: Mapping[str, TensorInfo]) -> bool:
        """Whether a module with these tensors (by suffix) is this algorithm's."""
        return not self.signature.isdisjoint(infos)

    def idle(self, suffixes: Collection[str]) -> frozenset[str]:
        """Those of its suffixes that mean nothing in a module that has these, whatever number is there."""
        return frozenset()

    def rank(self, tensors: Mapping[str, Shaped]) -> int | None:
        """The number that alpha is divided by, from the shapes of the tensors by suffix; None where there is none."""
        return None

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        """Why the update cannot be that of a weight of this shape, known before anything of its size is formed.

        To be asked before :meth:`update` where :attr:`needs_base`, or where small tensors make a large update.

        Args:
            tensors: the tensors by suffix; :meth:`problem` found nothing.
            shape: the shape of the weight: ``(out, in)``, ``(out, in, kh, kw)`` or ``(features,)``.

        Returns:
            A part of a sentence, or None when nothing is in the way.
        """
        return None

    @abstractmethod
    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        """Why a module with these tensors (by suffix) cannot be read, as a sentence; None when it can."""

    @abstractmethod
    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        """The module's update in float32.

        Args:
            tensors: the tensors by suffix, as they are in the file; :meth:`problem` found nothing.
            base_weight: the weight it was trained for, in its own shape and float32, where :attr:`needs_base`.

        Raises:
            NumericError: a number does not fit in float32.
        """


def not_floats(infos: Mapping[str, TensorInfo], suffixes: frozenset[str]) -> str | None:
    """A sentence about a tensor among ``suffixes`` that holds no floating-point numbers, or None."""
    for suffix in sorted(infos.keys() & suffixes):
        if infos[suffix].dtype not in FLOATS:
            return f"{suffix} is stored as {infos[suffix].dtype}, which is not a floating-point format."
    return None


def matrix(tensor: Tensor) -> Tensor:
    """A factor as a float32 matrix: rows stay, whatever follows (input channels, kernel) becomes columns."""
    return finite32(tensor).flatten(1)


def checked(tensor: Tensor) -> Tensor:
    """A result as float32; raises :class:`NumericError` when a number in it does not fit."""
    single = tensor.to(torch.float32)
    if not is_finite(single):
        raise NumericError("The update holds numbers beyond the range of float32.")
    return single


def wrong_size(own: tuple[int, int], shape: tuple[int, ...]) -> str | None:
    """Why a matrix of the size ``own`` is not the change of a weight of this shape; None when it can be."""
    if own == (shape[0], math.prod(shape[1:])):
        return None
    return f"its shape {by(own)} does not fit the checkpoint's {by(shape)}"


def by(shape: tuple[int, ...]) -> str:
    """A shape for a person."""
    return "x".join(map(str, shape))


def vector(tensor: Tensor | None) -> Tensor | None:
    """A tensor as a float32 vector, or None."""
    return None if tensor is None else finite32(tensor).reshape(-1)


def finite32(tensor: Tensor) -> Tensor:
    """A tensor as contiguous float32; raises :class:`NumericError` when that overflows."""
    single = tensor.to(torch.float32).contiguous()
    if not is_finite(single):
        raise NumericError("A tensor holds numbers beyond the range of float32.")
    return single


def wrong_scale(infos: Mapping[str, TensorInfo]) -> str | None:
    """A sentence about a scale that is not one number, or None."""
    for suffix in SCALES:
        if suffix in infos and (math.prod(infos[suffix].shape) != 1 or infos[suffix].dtype == "BOOL"):
            return f"{suffix} has shape {list(infos[suffix].shape)}, but must be one number."
    return None


def scale_of(tensors: Mapping[str, Tensor], rank: int | None) -> tuple[float, tuple[str, ...]]:
    """The number the product of the factors is multiplied by, and notes.

    A missing alpha means scale 1; ``scale`` takes the place of alpha / rank (A1111); ``scalar`` multiplies (LyCORIS).
    Training with rs-LoRA needs no rule of its own: LyCORIS stores an alpha that is already multiplied by the root of the
    rank.

    Args:
        tensors: the tensors of one module, by suffix.
        rank: the number that alpha is divided by; None where there is none, and alpha means nothing.
    """
    values = {suffix: float(tensors[suffix].reshape(()).double()) for suffix in SCALES if suffix in tensors}
    if rank is None:
        values.pop("alpha", None)
    effective = ("scale" if "scale" in values else "alpha", "scalar")
    notes = tuple(f"{suffix} is 0: this module does nothing." for suffix in effective if values.get(suffix) == 0.0)
    scale = values.get("scale", 1.0 if rank is None else values.get("alpha", float(rank)) / rank)
    return scale * values.get("scalar", 1.0), notes


def fold(scale: float, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply ``up @ down`` by ``scale``, half of its exponent in each factor.

    Powers of two are exact, so only the mantissa (in ``up``) rounds; all of it in one factor could overflow float32.

    Raises:
        NumericError: a factor does not fit in float32.
    """
    if scale != 1.0:
        mantissa, exponent = math.frexp(scale)
        half = exponent // 2
        up, down = up * mantissa * 2.0 ** (exponent - half), down * 2.0**half
    if not (is_finite(up) and is_finite(down)):
        raise NumericError(f"The scale {scale:g} lifts a factor beyond the range of float32.")
    return up, down
