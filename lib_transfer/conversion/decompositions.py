"""Decompositions of weights, computed once and cached; an entry per weight serves every subspace rank ``k``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lib_transfer.conversion.weights import Weight
from lib_transfer.linalg import decomposition as linalg
from lib_transfer.linalg.decomposition import Decomposition
from lib_transfer.linalg.subspace import rows_needed
from lib_transfer.storage.cache import Cache


@dataclass(frozen=True)
class Wanted:
    """Which subspace rank is asked for: an energy or a fixed number; exactly one is set."""

    energy: float | None
    rank: int | None

    def of(self, singular_values: Tensor) -> int:
        """The subspace rank ``k`` that this weight's singular values give."""
        if self.rank is not None:
            return min(self.rank, linalg.numerical_rank(singular_values))
        assert self.energy is not None
        return linalg.rank_for_energy(singular_values, self.energy)


def decomposition(weight: Weight, wanted: Wanted, cache: Cache) -> Decomposition:
    """The decomposition of a weight with at least the rows that the subspace of the wanted rank is made from.

    Args:
        weight: the weight to decompose; read only where the cache does not know it.
        wanted: the subspace rank that its rows must serve.
        cache: where the result is kept.

    Raises:
        NumericError: the weight holds NaN or infinity.
    """
    known = cache.get("weights", weight.key, only="singular_values")
    if known is not None:
        needed = rows_needed(wanted.of(known["singular_values"]), min(weight.shape))
        entry = cache.get("weights", weight.key, rows={"rows": needed})
        if entry is not None:
            values, rows = (entry[name].to(weight.device) for name in ("singular_values", "rows"))
            return Decomposition(values, rows, linalg.short_side(weight.shape))
    fresh = linalg.decompose(weight.sound())
    cache.put("weights", weight.key, {"singular_values": fresh.singular_values, "rows": fresh.rows})
    return fresh


def is_known(weight: Weight, cache: Cache) -> bool:
    """Whether the decomposition of ``weight`` is in the cache. Reads nothing."""
    return cache.path("weights", weight.key).is_file()
