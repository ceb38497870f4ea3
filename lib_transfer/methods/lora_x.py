"""LoRA-X: project the update onto the target weight's subspaces.

Farhadzadeh et al., "LoRA-X: Bridging Foundation Models with Training-Free Cross-Model Adaptation", ICLR 2025,
arXiv 2501.16559.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_transfer import linalg
from lib_transfer.methods.declaration import LINEAR_AND_CONVOLUTION, SUBSPACE_PARAMETERS, Method, MethodInput, Parameter

if TYPE_CHECKING:
    from lib_transfer.linalg.factors import Factors


def transfer(given: MethodInput) -> Factors:
    """``P_t D Q_t`` with ``P_t = U_t U_t^T``, ``Q_t = V_t V_t^T``: the part of ``D`` within the target's subspaces."""
    _, target = given.subspaces()
    up, down = given.update
    return linalg.factors.Factors(
        target.left.combine(target.left.coordinates(up)),
        target.right.combine(target.right.coordinates(down.T)).T,
    )


def map_dimensions(given: MethodInput) -> Factors:
    """``U_t (U_s^T D V_s) V_t^T``: the i-th direction of one base becomes the i-th of the other.

    No similarity exists between spaces of different dimension, and the result depends on the signs of the singular
    vectors, which :func:`lib_transfer.linalg.subspace.decompose` fixes by a convention. Run only when forced.
    """
    source, target = given.subspaces()
    up, down = given.update
    return linalg.factors.Factors(
        target.left.combine(source.left.coordinates(up)),
        target.right.combine(source.right.coordinates(down.T)).T,
    )


METHOD = Method(
    id="lora-x",
    title="LoRA-X",
    paper="Farhadzadeh et al., LoRA-X, ICLR 2025, arXiv 2501.16559",
    summary="Keeps the part of each update that lies within the target weight's dominant subspaces.",
    formula="P_t D Q_t",
    needs=frozenset({"source weight", "target weight", "subspaces"}),
    kinds=LINEAR_AND_CONVOLUTION,
    parameters=(
        *SUBSPACE_PARAMETERS,
        Parameter(
            "force",
            "flag",
            False,
            "also transfer modules whose dimensions differ, direction by direction, "
            "although nothing says that they correspond",
        ),
    ),
    transfer=transfer,
    maps_dimensions=map_dimensions,
)
