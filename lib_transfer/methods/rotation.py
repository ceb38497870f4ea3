"""Rotation: turn the update with the direct rotation that carries the source's subspaces onto the target's.

Keeps all four blocks of the update, its rank and its norm; the identity when the subspaces agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_transfer import linalg
from lib_transfer.methods.declaration import LINEAR_AND_CONVOLUTION, SUBSPACE_PARAMETERS, Method, MethodInput

if TYPE_CHECKING:
    from lib_transfer.linalg.factors import Factors


def transfer(given: MethodInput) -> Factors:
    """``R_U D R_V^T``, ``R`` the direct rotation of each side (:func:`lib_transfer.linalg.rotation.rotate`)."""
    assert given.left is not None
    assert given.right is not None
    up, down = given.update
    return linalg.factors.Factors(
        linalg.rotation.rotate(up, given.left),
        linalg.rotation.rotate(down.T, given.right).T,
    )


METHOD = Method(
    id="rotation",
    title="Rotation",
    paper="this project, with the direct rotation of Davis and Kahan 1970",
    summary="Turns each update by the smallest rotation that carries the source's subspaces onto the target's; nothing is lost.",
    formula="R_U D R_V^T",
    needs=frozenset({"source weight", "target weight", "subspaces", "rotations"}),
    kinds=LINEAR_AND_CONVOLUTION,
    parameters=SUBSPACE_PARAMETERS,
    transfer=transfer,
)
