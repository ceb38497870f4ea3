"""Low-rank updates as thin factors: ``D = up @ down`` without ever forming ``D``.

Notation: ``up`` is ``(out, r)``, ``down`` is ``(r, in)``; a convolution's update is flattened to ``in = in*kh*kw``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """A low-rank matrix ``up @ down``: ``up`` is ``(out, r)``, ``down`` is ``(r, in)``, float32."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """The number of columns of ``up``; an upper bound of the rank of the product."""
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the product."""
        return self.up.shape[0], self.down.shape[1]


def inner(a: Factors, b: Factors) -> float:
    """Frobenius inner product ``<a, b> = tr(a^T b)`` of two updates of one shape.

    Summed in float64, so that the norm of a small difference of two updates survives the cancellation.
    """
    up = a.up.double().T @ b.up.double()
    down = a.down.double() @ b.down.double().T
    return float((up * down).sum())


def norm(factors: Factors) -> float:
    """Frobenius norm ``||up @ down||_F``."""
    return math.sqrt(max(inner(factors, factors), 0.0))


def add(*terms: Factors) -> Factors:
    """The sum of updates of one shape, as factors of the sum of their ranks."""
    return Factors(torch.cat([t.up for t in terms], dim=1), torch.cat([t.down for t in terms], dim=0))


def scale(factors: Factors, by: float) -> Factors:
    """The factors of ``by * up @ down``; ``up`` takes the number."""
    return Factors(factors.up * by, factors.down)


def distance(a: Factors, b: Factors) -> float:
    """``||a - b||_F`` of two updates of one shape."""
    return norm(add(a, scale(b, -1.0)))


def is_thin(rank: int, out: int, into: int) -> bool:
    """Whether factors of this rank take no more room than the matrix ``(out, into)`` itself."""
    return rank * (out + into) <= out * into


def thin_svd(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of ``up @ down`` from QR of both factors and a small SVD.

    Returns:
        ``(U, s, Vh)`` with ``U`` ``(out, q)``, ``s`` ``(q,)`` descending, ``Vh`` ``(q, in)``, ``q`` at most the rank.
    """
    q_up, r_up = torch.linalg.qr(factors.up)
    q_down, r_down = torch.linalg.qr(factors.down.T)
    # This one is small. In float64 it always converges; in float32 not for some matrices with repeated singular values.
    u, s, vh = torch.linalg.svd(r_up.double() @ r_down.double().T, full_matrices=False)
    return q_up @ u.to(q_up.dtype), s.to(q_up.dtype), vh.to(q_up.dtype) @ q_down.T


def balanced(factors: Factors, rank: int | None = None) -> Factors:
    """The best approximation of rank ``rank`` (Eckart and Young 1936), its singular values split evenly.

    Args:
        factors: the update.
        rank: how many singular values to keep; None keeps every one.

    Returns:
        Factors of exactly ``min(rank, out, in)`` columns; where the update has fewer, the rest are zeros.
    """
    u, s, vh = thin_svd(factors)
    wanted = min(rank if rank is not None else s.shape[0], *factors.shape)
    kept = min(wanted, s.shape[0])
    root = s[:kept].sqrt()
    up = torch.zeros(u.shape[0], wanted, dtype=u.dtype, device=u.device)
    down = torch.zeros(wanted, vh.shape[1], dtype=u.dtype, device=u.device)
    up[:, :kept] = u[:, :kept] * root
    down[:kept] = vh[:kept] * root[:, None]
    return Factors(up, down)
