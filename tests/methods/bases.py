"""Problems for the methods, made from weights as the engine makes them, and the same bases as dense float64 matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.decomposition import decompose
from lib_transfer.linalg.factors import Factors
from lib_transfer.linalg.rotation import Turn
from lib_transfer.methods import MethodInput

from ..linalg.weights import direct_rotation, matrix, near, normal, spectrum, weight

KERNELS = {"linear": (), "1x1": (1, 1), "3x3": (3, 3)}
SIZES = {"tall": (60, 36), "wide": (36, 90), "square": (36, 36)}
"""``(out, in)`` as matrices; a 3x3 kernel has a ninth as many input channels."""

RANK = 4


@dataclass(frozen=True)
class Dense:
    """Projectors onto the subspaces of both weights and the whole update, all of them float64 matrices."""

    p_s: Tensor
    p_t: Tensor
    q_s: Tensor
    q_t: Tensor
    d: Tensor

    def rotations(self) -> tuple[Tensor, Tensor]:
        return direct_rotation(self.p_s, self.p_t), direct_rotation(self.q_s, self.q_t)


def product(update: Factors) -> Tensor:
    return update.up.double() @ update.down.double()


def weights(kernel: str, size: str, by: float, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two relatives as a checkpoint stores them."""
    out, flat = SIZES[size]
    source = weight(spectrum("gentle", min(out, flat)), out, flat, seed)
    shape = (out, flat // math.prod(KERNELS[kernel]), *KERNELS[kernel])
    return source.reshape(shape).to(dtype), near(source, by, seed + 9).reshape(shape).to(dtype)


def update_of(shape: tuple[int, int], rank: int = RANK, seed: int = 5) -> Factors:
    return Factors(normal(shape[0], rank, seed=seed).float(), normal(rank, shape[1], seed=seed + 1).float())


def decomposed(stored: Tensor, k: int) -> linalg.Subspace:
    flat = stored.float().reshape(stored.shape[0], -1)
    return linalg.subspace(decompose(flat), flat, k)


def problem(source: Tensor, target: Tensor, k: int, update: Factors | None = None) -> MethodInput:
    """All that a method may ask for."""
    of_source, of_target = decomposed(source, k), decomposed(target, k)
    shape = (source.shape[0], math.prod(source.shape[1:]))
    made = MethodInput(update or update_of(shape), of_source, of_target)
    if source.shape != target.shape:
        return made
    left, right = (Turn(o, linalg.principal_vectors(o.product)) for o in linalg.overlaps(of_source, of_target))
    return replace(made, left=left, right=right)


def dense(problem: MethodInput) -> Dense:
    source, target = problem.subspaces()
    k = source.rank
    projectors = []
    for basis in (source.left, target.left, source.right, target.right):
        b = torch.linalg.qr(matrix(basis, k))[0]
        projectors.append(b @ b.T)
    return Dense(*projectors, product(problem.update))
