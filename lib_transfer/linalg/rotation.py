"""The direct rotation: of all rotations that carry one subspace onto another, the one that moves everything least.

Davis and Kahan 1970, "The rotation of eigenvectors by a perturbation III"; Kato, "Perturbation theory", I.4.6.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lib_transfer.linalg.subspace import Overlap, PrincipalVectors


class Turn(NamedTuple):
    """What a direct rotation is applied from: the bases of two subspaces or of their complements, and principal vectors."""

    overlap: Overlap
    principal: PrincipalVectors


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """``R x`` for the direct rotation ``R`` of ``span(B_s)`` onto ``span(B_t)``; ``x`` is ``(dimension, r)``.

    That of two subspaces is that of their orthogonal complements too: both are the polar factor of
    ``P_t P_s + (I - P_t)(I - P_s)``.

    With the principal vectors ``A = B_s X``, ``B = B_t Y``, ``H = B - A C`` and ``c = diag(H^T H) / (1 + C)``:

        R x = x - A (c A^T x + H^T x) + H (A^T x - (1 + C)^-1 H^T x)

    Nothing is divided by the sines, which are tiny for near relatives: the textbook form with ``G = H / S`` loses two
    digits there. ``A``, ``B`` and ``H`` are applied, not formed.
    """
    (source, target), principal = (turn.overlap.source, turn.overlap.target), turn.principal
    cosines = principal.cosines[:, None]
    a_x = principal.x.T @ source.coordinates(x)  # A^T x
    h_x = principal.y.T @ target.coordinates(x) - cosines * a_x  # H^T x
    c = principal.squared_sines[:, None] / (1 + cosines)

    along_a = c * a_x + h_x
    along_h = a_x - h_x / (1 + cosines)
    # H z = B z - A (C z)
    return x - source.combine(principal.x @ (along_a + cosines * along_h)) + target.combine(principal.y @ along_h)
