"""Linear maps fitted to data that streams by: ridge regression and its best low-rank form.

Notation: rows are observations. ``X`` ``(n, p)`` explains ``Y`` ``(n, q)``; only ``X^T X`` and ``X^T Y`` are kept, so memory
does not grow with the number of observations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib_transfer.linalg.factors import Factors

RIDGE = 1e-3
"""Strength of the ridge, as a share of the mean squared length of a column of ``X``."""

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The ridges that :func:`chosen_map` chooses from."""


class Moments:
    """``X^T X`` and ``X^T Y`` of observations that were added one batch after the other, in float64.

    Args:
        inputs: the number ``p`` of columns of ``X``.
        outputs: the number ``q`` of columns of ``Y``.
        device: the device that they are kept on.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)
        self.squares = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the observations that are the rows of ``x`` ``(n, p)`` and of ``y`` ``(n, q)``."""
        x, y = x.double(), y.double()
        self.gram += x.T @ x
        self.cross += x.T @ y
        self.squares += float(y.square().sum())

    def lost(self, solution: Tensor) -> float:
        """The squared error ``||X solution - Y||^2`` of ``solution`` ``(p, q)``."""
        inner = (solution * (self.gram @ solution - 2 * self.cross)).sum()
        return float(inner) + self.squares

    def __add__(self, other: Moments) -> Moments:
        """The moments of the observations of both."""
        inputs, outputs = self.cross.shape
        both = Moments(inputs, outputs, self.gram.device)
        both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
        both.squares = self.squares + other.squares
        return both


def regularised(gram: Tensor, ridge: float = RIDGE) -> Tensor:
    """``X^T X + ridge * tr(X^T X) / p * I`` ``(p, p)``: positive definite, however few the observations are."""
    size = gram.shape[0]
    level = ridge * float(gram.diagonal().sum()) / max(size, 1) or 1.0
    return gram + level * torch.eye(size, dtype=gram.dtype, device=gram.device)


def ridge_map(moments: Moments, ridge: float = RIDGE) -> Tensor:
    """``M`` ``(p, q)`` that minimises ``||X M - Y||^2 + lambda ||M||^2`` (Hoerl and Kennard 1970)."""
    return torch.cholesky_solve(moments.cross, torch.linalg.cholesky(regularised(moments.gram, ridge)))


def chosen_map(fitted: Moments, held: Moments) -> Tensor:
    """:func:`ridge_map` of all observations, with the ridge that is best on those that were held back.

    Args:
        fitted: the moments of the observations that each ridge is fitted to.
        held: the moments of those that were held back.
    """
    ridge = min(RIDGES, key=lambda ridge: held.lost(ridge_map(fitted, ridge)))
    return ridge_map(fitted + held, ridge)


def reduced_rank(solution: Tensor, gram: Tensor, rank: int, ridge: float = RIDGE) -> Factors:
    """The best rank-``rank`` replacement of a regression's solution, as an update of a layer.

    Reduced-rank regression (Izenman 1975): of all matrices ``W`` of that rank, the one for which ``X W`` is nearest to
    ``X solution``; the distance is taken where the data are, not over all directions alike.

    Args:
        solution: the matrix ``(p, q)``, applied from the right: ``y = x @ solution``.
        gram: ``X^T X`` ``(p, p)``.
        rank: the rank of the result, at most ``min(p, q)``.
        ridge: the ridge that the solution was found with.

    Returns:
        Float32 factors whose product is ``W^T`` ``(q, p)``: ``up`` ``(q, rank)``, ``down`` ``(rank, p)``.
    """
    lower = torch.linalg.cholesky(regularised(gram, ridge))
    u, s, vh = torch.linalg.svd(lower.T @ solution, full_matrices=False)
    kept = min(rank, s.shape[0])
    root = s[:kept].sqrt()
    left = torch.linalg.solve_triangular(lower.T, u[:, :kept] * root, upper=True)
    return Factors((vh[:kept].T * root).float().contiguous(), left.T.float().contiguous())
