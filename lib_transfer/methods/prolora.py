"""ProLoRA: carry the part within the subspaces and the part in their null spaces, each by projection.

Farhadzadeh et al., "Zero-Shot Adaptation of Parameter-Efficient Fine-Tuning in Diffusion Models" (ProLoRA), ICML 2025,
arXiv 2506.04244.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_transfer import linalg
from lib_transfer.methods.declaration import LINEAR_AND_CONVOLUTION, SUBSPACE_PARAMETERS, Method, MethodInput

if TYPE_CHECKING:
    from torch import Tensor

    from lib_transfer.linalg.factors import Factors
    from lib_transfer.linalg.subspace import Basis


def within(x: Tensor, source: Basis, target: Basis) -> Tensor:
    """``B_t B_t^T B_s B_s^T x``: projected onto the source's subspace, then onto the target's."""
    inside = source.combine(source.coordinates(x))
    return target.combine(target.coordinates(inside))


def outside(x: Tensor, source: Basis, target: Basis) -> Tensor:
    """``(I - B_t B_t^T)(I - B_s B_s^T) x``: the same for the null spaces, by subtraction."""
    rest = x - source.combine(source.coordinates(x))
    return rest - target.combine(target.coordinates(rest))


def transfer(given: MethodInput) -> Factors:
    """``P_t P_s D Q_s Q_t + (I-P_t)(I-P_s) D (I-Q_s)(I-Q_t)``: twice the rank of ``D``; the mixed blocks are lost."""
    source, target = given.subspaces()
    up, down = given.update
    return linalg.factors.add(
        linalg.factors.Factors(within(up, source.left, target.left), within(down.T, source.right, target.right).T),
        linalg.factors.Factors(outside(up, source.left, target.left), outside(down.T, source.right, target.right).T),
    )


METHOD = Method(
    id="prolora",
    title="ProLoRA",
    paper="Farhadzadeh et al., ProLoRA, ICML 2025, arXiv 2506.04244",
    summary="Projects the part of each update within the subspaces and the part in their null spaces; the mixed parts are lost.",
    formula="P_t P_s D Q_s Q_t + (I-P_t)(I-P_s) D (I-Q_s)(I-Q_t)",
    needs=frozenset({"source weight", "target weight", "subspaces"}),
    kinds=LINEAR_AND_CONVOLUTION,
    parameters=SUBSPACE_PARAMETERS,
    transfer=transfer,
)
