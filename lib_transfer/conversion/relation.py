"""How the subspaces of two weights lie to each other, computed once and cached.

There is an entry per pair of weights and subspace rank ``k`` for both similarities, and one for the principal vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.decompositions import Wanted, decomposition
from lib_transfer.conversion.weights import Weight
from lib_transfer.lazy import lazy_property
from lib_transfer.library.base import Base
from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.decomposition import Decomposition
from lib_transfer.linalg.rotation import Turn
from lib_transfer.linalg.subspace import Overlap, PrincipalVectors, Subspace
from lib_transfer.storage.cache import Cache, entry_key

R = TypeVar("R")

_SIDES = ("left", "right")
_PRINCIPAL = tuple(field.name for field in dataclasses.fields(PrincipalVectors))


@dataclass(frozen=True)
class Similarity:
    """How alike the subspaces of two weights are, at one ``k``.

    Attributes:
        rank: ``k``, the same on both sides.
        left, right: ``phi`` of both sides, in 0 to 1; None where the dimensions differ.
        left_corrected, right_corrected: the same, corrected for chance.
    """

    rank: int
    left: float | None
    right: float | None
    left_corrected: float | None
    right_corrected: float | None

    @property
    def smaller(self) -> float | None:
        """The smaller one of both similarities; None where there are not both."""
        return None if self.left is None or self.right is None else min(self.left, self.right)

    @property
    def smaller_corrected(self) -> float | None:
        """The smaller one of both corrected similarities; None where there are not both."""
        left, right = self.left_corrected, self.right_corrected
        return None if left is None or right is None else min(left, right)


class _Decomposed(NamedTuple):
    """Both weights decomposed, and the rank that their subspaces share."""

    source: Decomposition
    target: Decomposition
    rank: int


@dataclass(frozen=True, eq=False)
class Relation:
    """Two weights, their subspaces of one rank and how these lie to each other; all of it computed when first asked for.

    Attributes:
        source, target: the two weights.
        wanted: the subspace rank that is asked for.
        cache: where results are kept.
    """

    source: Weight
    target: Weight
    wanted: Wanted
    cache: Cache

    @lazy_property
    def _decomposed(self) -> _Decomposed:
        source = decomposition(self.source, self.wanted, self.cache)
        capped = Wanted(None, min(self.wanted.of(source.singular_values), *self.target.shape))
        target = decomposition(self.target, capped, self.cache)
        return _Decomposed(source, target, capped.of(target.singular_values))

    @property
    def rank(self) -> int:
        """The subspace rank on both sides: what the source's singular values give, capped at all sides."""
        return self._decomposed.rank

    @property
    def same_dimensions(self) -> bool:
        """Whether both weights have one shape as matrices."""
        return self.source.shape == self.target.shape

    @lazy_property
    def equal(self) -> bool:
        """Whether both weights are the same numbers, so that nothing has to be adapted and nothing decomposed."""
        return self.same_dimensions and torch.equal(self.source.matrix, self.target.matrix)

    @lazy_property
    def similarity(self) -> Similarity:
        """Both similarities at this rank; zero where a weight is zero and has no directions. Equal weights are alike at any."""
        if self.equal:
            return Similarity(min(self.source.shape), 1.0, 1.0, 1.0, 1.0)
        k = self.rank
        if not self.same_dimensions:
            return Similarity(k, None, None, None, None)
        if k == 0:
            return Similarity(0, 0.0, 0.0, 0.0, 0.0)
        phi_left, phi_right = self._similarities()
        out, into = self.source.shape
        return Similarity(
            k,
            phi_left,
            phi_right,
            linalg.chance_corrected(phi_left, k, out),
            linalg.chance_corrected(phi_right, k, into),
        )

    @lazy_property
    def subspaces(self) -> tuple[Subspace, Subspace]:
        """The source's and the target's subspaces of this rank."""
        return (
            linalg.subspace(self._decomposed.source, self.source.matrix, self.rank),
            linalg.subspace(self._decomposed.target, self.target.matrix, self.rank),
        )

    @lazy_property
    def turns(self) -> tuple[Turn, Turn]:
        """The direct rotations of the left and of the right subspaces; only for weights of one shape."""
        entry = self.cache.get("principal", self._pair_key)
        if entry is not None:
            t = {name: tensor.to(self.source.device) for name, tensor in entry.items()}
            principal = [PrincipalVectors(*(t[f"{side}.{name}"] for name in _PRINCIPAL)) for side in _SIDES]
        else:
            principal = [linalg.principal_vectors(overlap.product) for overlap in self._overlaps]
            tensors = {
                f"{side}.{name}": getattr(vectors, name)
                for side, vectors in zip(_SIDES, principal, strict=True)
                for name in _PRINCIPAL
            }
            self.cache.put("principal", self._pair_key, tensors)
        left, right = map(Turn, self._overlaps, principal)
        return left, right

    def _similarities(self) -> tuple[float, float]:
        """``phi`` of the left and of the right subspaces."""
        entry = self.cache.get("similarities", self._pair_key)
        if entry is None:
            entry = {"phi": torch.tensor([*map(linalg.similarity, self._overlaps)], dtype=torch.float64)}
            self.cache.put("similarities", self._pair_key, entry)
        left, right = entry["phi"].tolist()
        return left, right

    @property
    def _pair_key(self) -> str:
        return entry_key(self.source.key, self.target.key, self.rank)

    @lazy_property
    def _overlaps(self) -> tuple[Overlap, Overlap]:
        """The overlap of the left and of the right subspaces."""
        return linalg.overlaps(*self.subspaces)


@dataclass(frozen=True)
class Relations:
    """The weights of two bases, and how they lie to each other.

    Attributes:
        source, target: the bases; both are the target where there is no source.
        wanted: the subspace rank.
        cache: where results are kept.
        device: where the mathematics is done.
        kept: what was asked for already, where it is kept (see :meth:`keeping`).
    """

    source: Base
    target: Base
    wanted: Wanted
    cache: Cache
    device: torch.device
    kept: dict[Any, Any] | None = field(default=None, compare=False, repr=False)

    def __call__(self, of_source: Module, of_target: Module) -> Relation:
        """The relation of a source module's weight to a target module's."""
        return self._once(
            (of_source.name, of_target.name),
            lambda: Relation(
                self._weight(self.source, of_source, self.device),
                self._weight(self.target, of_target, self.device),
                self.wanted,
                self.cache,
            ),
        )

    def source_weight(self, module: Module) -> Tensor:
        """A source module's weight in float32 and its own shape, on the CPU.

        Raises:
            NumericError: it holds NaN or infinity.
        """
        return self._weight(self.source, module, torch.device("cpu")).sound().reshape(module.shape)

    def keeping(self) -> Relations:
        """The same, but a weight or a relation that was asked for stays in memory: for several updates of one module."""
        return dataclasses.replace(self, kept={})

    def _weight(self, base: Base, module: Module, device: torch.device) -> Weight:
        def make() -> Weight:
            return Weight(base.checkpoint, base.identity(module), module, device)

        return self._once((base.path, module.name, device), make)

    def _once(self, key: Any, make: Callable[[], R]) -> R:
        if self.kept is None:
            return make()
        if key not in self.kept:
            self.kept[key] = make()
        found: R = self.kept[key]
        return found
