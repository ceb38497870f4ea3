"""Rotation: turn the update with the direct rotation that carries the source's subspaces onto the target's.

Keeps all four blocks of the update, its rank and its norm; the identity when the subspaces agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_transfer import linalg
from lib_transfer.methods.declaration import LINEAR_AND_CONVOLUTION, SUBSPACE_PARAMETERS, Method, Problem

if TYPE_CHECKING:
    from lib_transfer.linalg.factors import Factors


def transfer(problem: Problem) -> Factors:
    """``R_U D R_V^T``, ``R`` the direct rotation of each side (:func:`lib_transfer.linalg.rotation.rotate`)."""
    source, target = problem.subspaces()
    assert problem.left is not None
    assert problem.right is not None
    up, down = problem.update
    return linalg.factors.Factors(
        linalg.rotation.rotate(up, source.left, target.left, problem.left),
        linalg.rotation.rotate(down.T, source.right, target.right, problem.right).T,
    )


METHOD = Method(
    id="rotation",
    title="Rotation",
    paper="this project, with the direct rotation of Davis and Kahan 1970",
    summary="Turns each update by the smallest rotation that carries the source's subspaces onto the target's; nothing is lost.",
    formula="R_U D R_V^T",
    needs=frozenset({"source weight", "target weight", "subspaces", "principal vectors"}),
    kinds=LINEAR_AND_CONVOLUTION,
    parameters=SUBSPACE_PARAMETERS,
    transfer=transfer,
)
