"""Dominant singular subspaces of a weight, how alike two of them are, and their principal vectors.

A weight ``W`` ``(out, in)`` has left singular vectors ``U`` ``(out, k)`` and right ones ``V`` ``(in, k)``. Only the basis
of the **short side** is computed and kept, from the Gram matrix of that side; the long side's basis is applied through the
weight: ``V^T x = S^-1 U^T W x``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Side = Literal["left", "right"]

FLOAT32_RATIO = 6.0
"""A Gram matrix in float32 serves the directions whose singular value is at least ``s_1 / FLOAT32_RATIO``.

Forming ``W W^T`` squares the condition number: the directions ``i`` and ``j`` come out mixed by about
``4 eps s_1^2 / (s_i s_j)`` (measured, ``eps = 6e-8``), which at this ratio is 1e-5, the orthonormality that the long side
needs. The subspace's own error is there 20 to 100 times below what rounding the weight to fp16 once does to it
(``tests/linalg/test_precision.py``). Below that, float64.
"""

SMALLEST_RATIO = 1e-3
"""Directions below this fraction of the largest singular value are left out of every subspace.

Rounding a weight to fp16 once moves them by a large part of a right angle; and below it, bases kept in float32 are no
longer orthonormal to 1e-5 when they are applied through the weight."""


@dataclass(frozen=True)
class Decomposition:
    """Singular values of a weight and the basis of its short side.

    Attributes:
        singular_values: ``(n,)`` float32, descending, ``n = min(out, in)``.
        rows: ``(n, n)`` float32; row ``i`` is the ``i``-th singular vector of the short side. Signs: the entry of largest
            magnitude is positive. When read for one ``k`` only the first rows may be here.
        side: which side is the short one: ``left`` when ``out <= in``.
        precision: the number format of the Gram matrix that they come from, float32 or float64.
    """

    singular_values: Tensor
    rows: Tensor
    side: Side
    precision: torch.dtype


class Basis(Protocol):
    """An orthonormal basis ``B`` ``(dimension, k)``, which need not exist as a matrix."""

    def coordinates(self, x: Tensor) -> Tensor:
        """``B^T x``: ``(dimension, r)`` to ``(k, r)``."""

    def combine(self, c: Tensor) -> Tensor:
        """``B c``: ``(k, r)`` to ``(dimension, r)``."""


@dataclass(frozen=True)
class StoredBasis:
    """The short side's basis: ``rows`` ``(k, n)`` holds ``B^T``."""

    rows: Tensor

    def coordinates(self, x: Tensor) -> Tensor:
        """``B^T x``."""
        return self.rows @ x

    def combine(self, c: Tensor) -> Tensor:
        """``B c``."""
        return self.rows.T @ c


@dataclass(frozen=True)
class AppliedBasis:
    """The long side's basis through the weight: ``B = L rows^T S^-1`` with ``L`` ``(long, short)`` the weight."""

    long: Tensor
    rows: Tensor
    singular_values: Tensor

    def coordinates(self, x: Tensor) -> Tensor:
        """``B^T x = S^-1 rows L^T x``."""
        return (self.rows @ (self.long.T @ x)) / self.singular_values[:, None]

    def combine(self, c: Tensor) -> Tensor:
        """``B c = L rows^T S^-1 c``."""
        return self.long @ (self.rows.T @ (c / self.singular_values[:, None]))


@dataclass(frozen=True)
class Subspace:
    """The ``k`` dominant left and right singular directions of one weight."""

    left: Basis
    right: Basis
    rank: int


@dataclass(frozen=True)
class PrincipalVectors:
    """How two subspaces of one space lie to each other: ``B_s^T B_t = X C Y^T``.

    Attributes:
        x: ``(k, k)``; ``B_s x`` are the principal vectors of the source's subspace.
        y: ``(k, k)``; ``B_t y`` those of the target's.
        cosines: ``(k,)`` cosines of the principal angles, descending, within 0 and 1.
        squared_sines: ``(k,)``, ``1 - cosines^2``.
    """

    x: Tensor
    y: Tensor
    cosines: Tensor
    squared_sines: Tensor


def short_side(shape: tuple[int, ...]) -> Side:
    """Which side of a weight ``(out, in)`` has fewer dimensions; the left one when both are equal."""
    return "left" if shape[0] <= shape[1] else "right"


def gram(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``W W^T`` or ``W^T W``, whichever is smaller, ``(n, n)`` in ``dtype``."""
    w = weight.to(dtype)
    return w @ w.T if short_side(weight.shape) == "left" else w.T @ w


def decompose(weight: Tensor, dtype: torch.dtype) -> Decomposition:
    """Singular values and short-side basis of ``weight`` ``(out, in)`` by the eigenvectors of its Gram matrix.

    Args:
        weight: the matrix, float32, finite.
        dtype: the number format of the Gram matrix and its eigenvectors, float32 or float64; see :data:`FLOAT32_RATIO`.

    Raises:
        torch.linalg.LinAlgError: the eigensolver did not converge (not seen for finite weights).
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(gram(weight, dtype))
    singular_values = eigenvalues.flip(0).clamp_min(0).sqrt()
    rows = eigenvectors.T.flip(0)
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    rows = rows * torch.where(largest < 0, -1, 1)
    return Decomposition(singular_values.float(), rows.float().contiguous(), short_side(weight.shape), dtype)


def float32_rank(singular_values: Tensor) -> int:
    """How many leading directions a Gram matrix in float32 gives well enough, see :data:`FLOAT32_RATIO`."""
    return int((singular_values * FLOAT32_RATIO >= singular_values[:1]).sum())


def numerical_rank(singular_values: Tensor) -> int:
    """How many singular values are large enough to mean something, see :data:`SMALLEST_RATIO`."""
    return int((singular_values > SMALLEST_RATIO * singular_values[:1]).sum())


def energy_rank(singular_values: Tensor, fraction: float) -> int:
    """The smallest ``k`` for which the first ``k`` squared singular values hold ``fraction`` of their total; 0 for zeros.

    Args:
        singular_values: ``(n,)``, descending.
        fraction: the share of the total, at most 1.
    """
    energy = singular_values.double().square().cumsum(0)
    if energy.numel() == 0 or energy[-1] == 0:
        return 0
    return int((energy < fraction * energy[-1]).sum()) + 1


def rank_for_energy(singular_values: Tensor, fraction: float) -> int:
    """:func:`energy_rank` of a weight, at most its :func:`numerical_rank`."""
    return min(energy_rank(singular_values, fraction), numerical_rank(singular_values))


def subspace(decomposition: Decomposition, weight: Tensor, rank: int) -> Subspace:
    """Bases of the first ``rank`` left and right singular directions of ``weight`` ``(out, in)`` float32."""
    rows = decomposition.rows[:rank]
    stored = StoredBasis(rows)
    long = weight.T if decomposition.side == "left" else weight
    applied = AppliedBasis(long, rows, decomposition.singular_values[:rank])
    return Subspace(stored, applied, rank) if decomposition.side == "left" else Subspace(applied, stored, rank)


def basis_rows(basis: Basis) -> Tensor:
    """``B^T`` as a matrix ``(k, dimension)``, its rows brought to length one."""
    if isinstance(basis, StoredBasis):
        return basis.rows
    assert isinstance(basis, AppliedBasis)
    rows: Tensor = basis.rows @ basis.long.T
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return rows / lengths


def overlap(source: Basis, target: Basis) -> Tensor:
    """``B_s^T B_t`` ``(k_s, k_t)`` of two bases of one space."""
    overlaps: Tensor = basis_rows(source) @ basis_rows(target).T
    return overlaps


def similarity(overlaps: Tensor) -> float:
    """``phi = ||B_s^T B_t||_F^2 / k`` of two subspaces of rank ``k`` (LoRA-X eq. 6, ProLoRA eq. 5), in 0 to 1.

    Args:
        overlaps: ``B_s^T B_t`` ``(k, k)``, with ``k`` at least 1.
    """
    return min(float(overlaps.double().square().sum()) / overlaps.shape[0], 1.0)


def chance_corrected(similarity: float, rank: int, dimension: int) -> float:
    """``(phi - k/n) / (1 - k/n)``: 0 for two random subspaces of dimension ``k`` in ``n``, 1 for equal ones.

    When ``k = n`` every two subspaces are equal, and the result is 1.
    """
    chance = rank / dimension
    return 1.0 if chance >= 1 else (similarity - chance) / (1 - chance)


def principal_vectors(overlaps: Tensor) -> PrincipalVectors:
    """Principal vectors from ``M = B_s^T B_t`` ``(k, k)``, the subspaces' overlap (Bjorck and Golub 1973).

    From the eigenvectors of ``M^T M = Y C^2 Y^T``, and ``M Y = X C`` by QR, which also completes ``X`` where cosines are
    zero. (A direct SVD of ``M``, nearly the identity for near relatives, may not converge in float32.) The squared sines
    are ``1 - C^2`` written as ``(1 - C)(1 + C)``, which equals ``diag(H^T H)`` of the direct rotation and enters it with
    an absolute error, undivided: float32 is enough.

    Raises:
        torch.linalg.LinAlgError: the eigensolver did not converge (not seen for finite overlaps).
    """
    _, eigenvectors = torch.linalg.eigh(overlaps.T @ overlaps)
    y = eigenvectors.flip(1)
    x, r = torch.linalg.qr(overlaps @ y)
    diagonal = r.diagonal()
    x = x * torch.where(diagonal < 0, -1, 1)
    cosines = diagonal.abs().clamp(max=1)
    squared_sines = (1 - cosines) * (1 + cosines)
    return PrincipalVectors(x.float().contiguous(), y.float().contiguous(), cosines.float(), squared_sines.float())
