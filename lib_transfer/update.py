"""What an adapter does to one module of a model: one type from the file that is read to the file that is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.linalg.dense import Spectrum
from lib_transfer.linalg.factors import Factors, add, balanced, distance
from lib_transfer.linalg.factors import norm as norm_of

Rows = tuple[tuple[int, int], ...]
"""Stretches of rows ``(first, end)`` of a fused weight, in the order in which a part has them."""


@dataclass(frozen=True, eq=False)
class Update:
    """A change of one module's weight, of its bias, or of both.

    The change of the weight is held as thin factors or number by number, never both. Where this module says "out" and
    "in", a convolution's weight ``(out, in, kh, kw)`` is flattened to ``(out, in*kh*kw)``.

    Attributes:
        factors: ``up`` (out, r) and ``down`` (r, in) of the change ``up @ down`` of the weight, with every scale of the
            file (alpha / rank, ``scale``, ``scalar``) folded in.
        weight: the change of the weight itself, in the weight's own shape or flattened; (features,) only for
            what the file holds as the change of a normalisation.
        bias: the change of the bias, (out,).
        rank: the rank that the adapter was made with; None where it was not made with one, and the factors, if there are
            any, are only a way of writing an update of another kind.
        stored: whether the adapter's file holds these very numbers as a full difference (``diff``, ``diff_b``).
        notes: sentences for the report.

    Raises:
        ValueError: both factors and a weight are given, or nothing at all.
    """

    factors: Factors | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    rank: int | None = None
    stored: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.factors is not None and self.weight is not None:
            raise ValueError("An update of a weight is either factors or a difference, not both.")
        if self.factors is None and self.weight is None and self.bias is None:
            raise ValueError("An update changes a weight or a bias.")

    @property
    def changes_weight(self) -> bool:
        """Whether the weight is changed at all, and not the bias alone."""
        return self.factors is not None or self.weight is not None

    @property
    def is_of_norm(self) -> bool:
        """Whether the adapter's file holds it as the change of a normalisation (``w_norm``, ``b_norm``): vectors alone."""
        return self.factors is None and not self.stored and len(self.shape) < 2

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight's change: ``(out, in)`` of factors, a difference's own; ``()`` where there is none."""
        if self.factors is not None:
            return self.factors.shape
        return () if self.weight is None else tuple(self.weight.shape)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether this can be put on a weight of this shape: ``(out, in)``, ``(out, in, kh, kw)`` or ``(features,)``."""
        fits_weight = not self.changes_weight or (
            self.shape[:1] == shape[:1] and math.prod(self.shape) == math.prod(shape)
        )
        return fits_weight and (self.bias is None or self.bias.shape[0] == shape[0])

    def matrix(self) -> Tensor:
        """The change of the weight as a dense matrix ``(out, in)``; a normalisation's is ``(features, 1)``.

        Raises:
            ValueError: only the bias changes.
        """
        if self.factors is not None:
            return self.factors.up @ self.factors.down
        if self.weight is None:
            raise ValueError("Only the bias changes.")
        return self.weight.reshape(self.weight.shape[0], -1)

    def spectrum(self) -> Spectrum:
        """The singular values of the weight's change, and its best approximation of every rank.

        Raises:
            ValueError: only the bias changes.
        """
        return Spectrum(self.matrix() if self.factors is None else self.factors)

    def norm(self) -> float:
        """Frobenius norm of the whole change, weight and bias together."""
        if self.factors is not None:
            return math.hypot(norm_of(self.factors), 0.0 if self.bias is None else float(self.bias.norm()))
        parts = [tensor.double().square().sum() for tensor in (self.weight, self.bias) if tensor is not None]
        return math.sqrt(float(sum(parts)))

    def distance(self, other: Factors) -> float:
        """``||other - D||_F`` for the change ``D`` of the weight.

        Args:
            other: factors of a matrix of the same size, on the same device.

        Raises:
            ValueError: only the bias changes.
        """
        if self.factors is not None:
            return distance(other, self.factors)
        return float(torch.addmm(self.matrix(), other.up, other.down, beta=-1).double().norm())

    def rows(self, rows: Rows | None) -> Update:
        """What of the update of a fused weight is for the part that has these rows of it; None stands for all."""
        return self if rows is None else self._each(lambda tensor: take(tensor, rows))

    def scaled(self, by: float) -> Update:
        """``by`` times the update; of factors, ``up`` takes the number."""
        return self._each(lambda tensor: tensor * by)

    def recompressed(self, rank: int | None = None) -> Update:
        """The best approximation of rank ``rank`` (Eckart and Young 1936) as factors that share the singular values evenly.

        Args:
            rank: how many singular values of the weight's change are kept; None keeps every one.

        Raises:
            ValueError: only the bias changes.
        """
        if self.factors is None:
            spectrum = self.spectrum()
            factors = balanced(spectrum.factors(max(spectrum.rank, 1) if rank is None else rank), rank)
        else:
            factors = balanced(self.factors, rank)
        return dataclasses.replace(self, factors=factors, weight=None, rank=factors.rank, stored=False)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Update:
        """The same on ``device``, in ``dtype`` where one is given."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype)

        return self._each(moved, moved)

    def _each(
        self, change: Callable[[Tensor], Tensor], change_down: Callable[[Tensor], Tensor] = lambda down: down
    ) -> Update:
        """The same with its tensors changed; ``down`` has a function of its own, because it has no rows of the weight."""
        return dataclasses.replace(
            self,
            factors=None if self.factors is None else Factors(change(self.factors.up), change_down(self.factors.down)),
            weight=None if self.weight is None else change(self.weight),
            bias=None if self.bias is None else change(self.bias),
        )


Updates = Mapping[str, Update]
"""What an adapter does to a model, by canonical name of the module."""


def total(*updates: Update) -> Update:
    """The sum of updates of one module, as factors of the sum of their ranks where none of them is dense.

    The result was not made with a rank; it has the notes of all.
    """
    factors = [update.factors for update in updates if update.factors is not None]
    biases = [update.bias for update in updates if update.bias is not None]
    bias = sum(biases[1:], start=biases[0]) if biases else None
    notes = tuple(note for update in updates for note in update.notes)
    dense = next((update for update in updates if update.weight is not None), None)
    if dense is None:
        return Update(factors=add(*factors) if factors else None, bias=bias, notes=notes)
    rest = [update.matrix() for update in updates if update is not dense and update.changes_weight]
    return Update(weight=sum(rest, start=dense.matrix()).reshape(dense.shape), bias=bias, notes=notes)


def joined(parts: Sequence[tuple[Rows, Update]], out: int) -> Update:
    """The update of a fused weight from those of its parts, the inverse of :meth:`Update.rows`.

    Parts that are factors give factors of the sum of their ranks, which is exact; with a dense one among them the whole
    is dense. Parts that change the bias alone have no say in that. Rows that no part has are not changed.

    Args:
        parts: the rows of each part, and its update, float32 on the CPU; at least one.
        out: how many rows the whole weight has.
    """
    biases = [(rows, update.bias) for rows, update in parts if update.bias is not None]
    bias = _filled(biases, out) if biases else None
    factors = [(rows, update.factors) for rows, update in parts if update.factors is not None]
    if factors and len(factors) == sum(update.changes_weight for _, update in parts):
        return Update(factors=add(*(Factors(_filled([(rows, f.up)], out), f.down) for rows, f in factors)), bias=bias)
    weights = [(rows, update.matrix()) for rows, update in parts if update.changes_weight]
    return Update(weight=_filled(weights, out) if weights else None, bias=bias)


def place(whole: Tensor, rows: Rows | None, part: Tensor) -> None:
    """Write ``part`` to where its rows lie in ``whole``."""
    at = 0
    for first, end in rows or ((0, whole.shape[0]),):
        whole[first:end] = part[at : at + end - first]
        at += end - first


def take(whole: Tensor, rows: Rows | None) -> Tensor:
    """The rows of ``whole``, in their order; None stands for all."""
    if rows is None:
        return whole
    parts = [whole[first:end] for first, end in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _filled(parts: Sequence[tuple[Rows, Tensor]], out: int) -> Tensor:
    """A tensor of ``out`` rows with every part where its rows lie, and zeros elsewhere."""
    first = parts[0][1]
    whole = first.new_zeros(out, *first.shape[1:])
    for rows, part in parts:
        place(whole, rows, part)
    return whole
