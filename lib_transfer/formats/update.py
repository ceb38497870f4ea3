"""What an adapter does to one module: the three forms an update can have."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dense:
    """A change of a module's weight and bias given number by number.

    Attributes:
        weight: float32 in the weight's own shape or flattened to ``out x in*kh*kw``; None when only the bias changes.
        bias: float32 (out,), or None.
        notes: sentences for the report.
        stored: whether the file stores these very numbers. If not, they were computed from smaller tensors.
    """

    weight: Tensor | None
    bias: Tensor | None
    notes: tuple[str, ...] = ()
    stored: bool = False


@dataclass(frozen=True, eq=False)
class Norm:
    """A change of a normalisation layer: float32 vectors to be added to its weight and bias; at least one is there."""

    weight: Tensor | None
    bias: Tensor | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change ``up @ down`` of a module's weight, flattened to ``out x in*kh*kw``.

    Attributes:
        up: float32 (out, rank), with every scale of the file (alpha / rank, ``scale``, ``scalar``) folded in.
        down: float32 (rank, in*kh*kw), sharing the folded scale with ``up``.
        kernel: (kh, kw) when the file stores a convolution, None when it stores a linear layer. A 1x1 convolution and
            a linear layer have the same ``up`` and ``down``, and files store one as the other: the base decides.
        rank: columns of ``up``.
        extra: a change of the bias that the file holds beside the factors, or None.
        notes: sentences for the report.
        ranked: whether ``rank`` is the one the adapter was made with. If not, these factors are a way of writing an update
            of another kind, and their rank says little.
    """

    up: Tensor
    down: Tensor
    kernel: tuple[int, int] | None
    rank: int
    extra: Dense | None = None
    notes: tuple[str, ...] = ()
    ranked: bool = True


Update = LowRank | Dense | Norm
