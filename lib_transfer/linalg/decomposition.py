"""The singular values of a weight and the basis of its shorter side, in float32, from eigenvectors of Gram matrices.

The Gram matrix ``W W^T`` squares the condition number. In float32 the directions ``i`` and ``j`` come out mixed by a few
``eps s_1^2 / (s_i s_j)`` with ``eps = 6e-8``: nothing for directions of about the size ``s_1`` of the largest one, and more
than rounding the weight to fp16 does for much smaller ones. So no Gram matrix is asked for directions of very different
sizes. The few directions that stand out are found by subspace iteration and taken off the weight before the rest is
decomposed; and where the rest spans more than :data:`RANGE`, its small directions are decomposed again by themselves. The
parts are joined by a rotation that removes what is left of ``u_i^T W W^T u_j`` between them, to first order.

The errors that remain are held against those of rounding to fp16 by ``tests/linalg/test_precision.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]

SMALLEST_RATIO = 1e-3
"""Directions below this fraction of the largest singular value are left out of every subspace.

Rounding a weight to fp16 once moves them by a large part of a right angle; and bases kept in float32 that are applied
through the weight are orthonormal to 1e-4 there, and no better."""

RANGE = 16.0
"""One Gram matrix serves directions down to this part of its largest singular value. The mixing is then a tenth of what
rounding to fp16 does, or less."""

COLUMNS = 32
"""The number of columns of the subspace iteration."""

ROUNDS = 6
"""The number of rounds of it, at most."""

STANDS_OUT = 2.0
"""A direction stands out when its singular value is so many times the smallest one that the iteration sees."""

CONVERGED = 1e-4
"""The largest residual of a direction that is taken off, relative to its eigenvalue. What it leaves is removed later, to
first order, so that its square remains."""

_BLOCK = 256


@dataclass(frozen=True)
class Decomposition:
    """Singular values of a weight and the basis of its short side.

    Attributes:
        singular_values: ``(n,)`` float32, descending, ``n = min(out, in)``.
        rows: ``(n, n)`` float32; row ``i`` is the ``i``-th singular vector of the short side. Signs: the entry of largest
            magnitude is positive. When read for one ``k`` only the first rows may be here.
        side: which side is the short one: ``left`` when ``out <= in``.
    """

    singular_values: Tensor
    rows: Tensor
    side: Side


def short_side(shape: tuple[int, ...]) -> Side:
    """Which side of a weight ``(out, in)`` has fewer dimensions; the left one when both are equal."""
    return "left" if shape[0] <= shape[1] else "right"


def decompose(weight: Tensor, smallest: float = SMALLEST_RATIO) -> Decomposition:
    """Singular values and short-side basis of ``weight`` ``(out, in)``.

    Args:
        weight: the matrix, float32, finite.
        smallest: directions below this fraction of the largest singular value need not be told apart.

    Raises:
        torch.linalg.LinAlgError: the eigensolver did not converge (not seen for finite weights).
    """
    side = short_side(weight.shape)
    w = weight if side == "left" else weight.T
    head = _head(w)
    if head is None:
        values, vectors = _eigen(_gram(w))
        values, vectors = _separated(w, values, vectors, smallest**2 * values[:1])
    else:
        values, vectors = _joined(w, head, smallest)
    values, order = values.sort(descending=True, stable=True)
    rows = vectors.T[order]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return Decomposition(values.sqrt(), rows * torch.where(largest < 0, -1, 1), side)


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


def _head(w: Tensor) -> Tensor | None:
    """The leading left singular directions ``(n, h)`` of ``w`` ``(n, m)`` that stand out; None where none do.

    Subspace iteration with Rayleigh-Ritz steps (Halko, Martinsson and Tropp 2011, algorithm 4.4) until all that stand out
    have converged, or as many as do in :data:`ROUNDS`.
    """
    n = w.shape[0]
    columns = max(1, min(COLUMNS, n // 4))
    start = torch.randn(n, columns, generator=torch.Generator().manual_seed(0)).to(w)
    image, done, converged = w @ (w.T @ start), start[:, :0], 0
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(image)[0]
        rows = basis.T @ w
        values, turn = _eigen(rows @ rows.T)
        out = int((values > STANDS_OUT**2 * values[-1:]).sum())
        basis, image = basis @ turn, w @ (rows.T @ turn)
        residuals = torch.linalg.vector_norm(image - basis * values, dim=0)
        converged = int((residuals[:out] <= CONVERGED * values[:out]).long().cumprod(0).sum())
        done = basis[:, :converged]
        if converged == out:
            break
    return done if converged else None


def _joined(w: Tensor, head: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of ``w w^T``; the ``head`` ``(n, h)`` is taken off before the rest is decomposed."""
    h = head.shape[1]
    top = head.T @ w
    rest = torch.addmm(w, head, top, alpha=-1)
    large = top.square().sum(1)
    gram = _gram(rest).tril()
    gram = gram + gram.tril(-1).T
    # In a basis whose first h vectors are those of the head, the Gram matrix of the rest is that of the last n - h.
    reflectors = torch.geqrf(head)
    gram = torch.ormqr(*reflectors, torch.ormqr(*reflectors, gram, left=True, transpose=True), left=False)
    values, vectors = _eigen(gram[h:, h:])
    vectors = torch.ormqr(*reflectors, torch.cat([vectors.new_zeros(h, vectors.shape[1]), vectors]))
    values, vectors = _separated(rest, values, vectors, smallest**2 * large[:1])
    coupling = (top @ rest.T) @ vectors
    head, vectors = _turned(head, vectors, _angles(coupling, large, values))
    return torch.cat([large, values]), torch.cat([head, _orthogonal(vectors, head)], dim=1)


def _separated(w: Tensor, values: Tensor, vectors: Tensor, smallest: Tensor) -> tuple[Tensor, Tensor]:
    """Approximate eigenvectors ``(n, p)`` of ``w w^T``, those with small eigenvalues decomposed again by themselves.

    Args:
        w: ``(n, m)``.
        values, vectors: the eigenvalues, descending, and the eigenvectors from one Gram matrix.
        smallest: eigenvalues below it need not be told apart.
    """
    large = int((values * RANGE**2 >= values[:1]).sum())
    if large == len(values) or bool(values[:1] <= RANGE**2 * smallest):
        return values, vectors
    strong, weak = vectors[:, :large], vectors[:, large:]
    rows = weak.T @ w
    coupling = strong.T @ (w @ rows.T)
    angles = _angles(coupling, values[:large], values[large:])
    both = angles.T @ coupling
    gram = _gram(rows) - both - both.T + angles.T @ (values[:large, None] * angles)  # after they are turned
    strong, weak = _turned(strong, weak, angles)
    rest, turn = _eigen(gram)
    rest, weak = _separated(w, rest, weak @ turn, smallest)
    return torch.cat([values[:large], rest]), torch.cat([strong, _orthogonal(weak, strong)], dim=1)


def _angles(coupling: Tensor, large: Tensor, small: Tensor) -> Tensor:
    """By how much to turn strong into weak directions, so that ``coupling = strong^T W W^T weak`` is zero after it.

    To first order, as in Jacobi's method; where eigenvalues nearly agree, their directions are left as they are mixed.
    """
    return coupling / torch.maximum(large[:, None] - small, large[:, None] / 2)


def _turned(strong: Tensor, weak: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Directions that are turned into one another by these small angles."""
    return strong + weak @ angles.T, weak - strong @ angles


def _orthogonal(weak: Tensor, strong: Tensor) -> Tensor:
    """``weak`` without its part within the span of the orthonormal columns of ``strong``."""
    return torch.addmm(weak, strong, strong.T @ weak, alpha=-1)


def _eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending and not below 0, and eigenvectors of a symmetric matrix, of which the lower half is read."""
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _gram(w: Tensor) -> Tensor:
    """The lower half of ``w w^T``, in blocks; there may be numbers above the diagonal too."""
    n = w.shape[0]
    gram = w.new_zeros(n, n)
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        gram[begin:end, :end] = w[begin:end] @ w[:end].T
    return gram
