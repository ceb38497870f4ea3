"""Dominant singular subspaces of a weight, how alike two of them are, and their principal vectors.

A weight ``W`` ``(out, in)`` has left singular vectors ``U`` ``(out, k)`` and right ones ``V`` ``(in, k)``. Only the basis
of the **short side** is computed and kept, from the Gram matrix of that side; the long side's basis is applied through the
weight: ``V^T x = S^-1 U^T W x``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lib_transfer.lazy import lazy_property
from lib_transfer.linalg.decomposition import Decomposition


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
    """The ``k`` dominant left and right singular directions of one weight.

    Attributes:
        left, right: their bases.
        rank: ``k``.
        rest: the basis of the short side's other directions, where they are fewer than ``k``; else None.
    """

    left: Basis
    right: Basis
    rank: int
    rest: StoredBasis | None = None


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


def rows_needed(rank: int, dimension: int) -> int:
    """How many rows of a decomposition the subspace of this rank is made from: all, where the rest is smaller than it."""
    return rank if 2 * rank <= dimension else dimension


def subspace(decomposition: Decomposition, weight: Tensor, rank: int) -> Subspace:
    """Bases of the first ``rank`` left and right singular directions of ``weight`` ``(out, in)`` float32."""
    rows = decomposition.rows[:rank]
    stored = StoredBasis(rows)
    rest = None if 2 * rank <= min(weight.shape) else StoredBasis(decomposition.rows[rank:])
    long = weight.T if decomposition.side == "left" else weight
    applied = AppliedBasis(long, rows, decomposition.singular_values[:rank])
    left, right = (stored, applied) if decomposition.side == "left" else (applied, stored)
    return Subspace(left, right, rank, rest)


@dataclass(frozen=True)
class Overlap:
    """How two subspaces of one space lie to each other, told by their bases or by those of their complements.

    Attributes:
        source, target: bases ``B_s`` and ``B_t``, of the subspaces or of their complements.
        missing: how many directions the subspaces have more than these.
    """

    source: Basis
    target: Basis
    missing: int = 0

    @lazy_property
    def product(self) -> Tensor:
        """``B_s^T B_t``."""
        return basis_rows(self.source) @ basis_rows(self.target).T


def overlaps(source: Subspace, target: Subspace) -> tuple[Overlap, Overlap]:
    """The overlap of the left and of the right subspaces of two weights of one shape."""

    def of(one: Basis, other: Basis) -> Overlap:
        if source.rest is None or target.rest is None or not isinstance(one, StoredBasis):
            return Overlap(one, other)
        return Overlap(source.rest, target.rest, source.rank - source.rest.rows.shape[0])

    return of(source.left, target.left), of(source.right, target.right)


def basis_rows(basis: Basis) -> Tensor:
    """``B^T`` as a matrix ``(k, dimension)``, its rows brought to length one."""
    if isinstance(basis, StoredBasis):
        return basis.rows
    assert isinstance(basis, AppliedBasis)
    rows: Tensor = basis.rows @ basis.long.T
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return rows / lengths


def similarity(overlap: Overlap) -> float:
    """``phi = ||U_s^T U_t||_F^2 / k`` of two subspaces of rank ``k`` (LoRA-X eq. 6, ProLoRA eq. 5), in 0 to 1.

    The squared norm exceeds that of the complements by the difference of their ranks.

    Args:
        overlap: that of subspaces of at least one direction.
    """
    squares = float(overlap.product.double().square().sum()) + overlap.missing
    return min(squares / (overlap.product.shape[0] + overlap.missing), 1.0)


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
