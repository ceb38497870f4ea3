"""The best approximation of any rank of an update that is dense, or whose rank is high."""

from __future__ import annotations

import torch
from torch import Tensor

from lib_transfer.linalg.decomposition import decompose, energy_rank
from lib_transfer.linalg.factors import Factors, thin_svd

ROUNDING = 1e-6
"""Singular values below this fraction of the largest one are rounding, not part of an update kept in float32."""


class Spectrum:
    """A matrix ``D`` ``(out, in)``, decomposed so that its best approximation of every rank can be had.

    A dense one is decomposed by the eigenvectors ``U`` of the Gram matrix of its shorter side: ``U_r (U_r^T D)``, or
    ``(D V_r) V_r^T``. Nothing is divided by singular values, so what is kept is exact to the rounding of the basis.

    Args:
        given: the matrix, or factors of it; float32, finite.

    Attributes:
        singular_values: the singular values ``(n,)``, descending; ``n = min(out, in)``, or the rank of the factors if smaller.
    """

    def __init__(self, given: Tensor | Factors) -> None:
        if isinstance(given, Factors):
            u, self.singular_values, vh = thin_svd(given)
            self._left, self._right = u, self.singular_values[:, None] * vh
            return
        decomposition = decompose(given, ROUNDING)
        self.singular_values, rows = decomposition.singular_values, decomposition.rows
        left = decomposition.side == "left"
        self._left, self._right = (rows.T, rows @ given) if left else (given @ rows.T, rows)

    @property
    def shape(self) -> tuple[int, int]:
        """The size ``(out, in)`` of the matrix."""
        return self._left.shape[0], self._right.shape[1]

    @property
    def rank(self) -> int:
        """The number of singular values that are more than the rounding of float32."""
        return int((self.singular_values > ROUNDING * self.singular_values[:1]).sum())

    def rank_for_energy(self, fraction: float) -> int:
        """The smallest rank that keeps ``fraction`` of the squared norm; 0 for a zero matrix."""
        return energy_rank(self.singular_values, fraction)

    def factors(self, rank: int) -> Factors:
        """The best approximation of rank ``rank`` (Eckart and Young 1936)."""
        return Factors(self._left[:, :rank].contiguous(), self._right[:rank].contiguous())


def trivial(matrix: Tensor) -> Factors:
    """A matrix ``(out, in)`` as the product of itself and the identity of its shorter side, exact, of rank ``min(out, in)``."""
    out, into = matrix.shape
    identity = torch.eye(min(out, into), dtype=matrix.dtype, device=matrix.device)
    return Factors(identity, matrix) if out <= into else Factors(matrix, identity)
