"""Decompositions of weights, computed once and cached; an entry per weight serves every subspace rank ``k``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.conversion.weights import Weight
from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.subspace import Decomposition
from lib_transfer.storage.cache import Cache, entry_key


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

    def modest(self, dimension: int) -> bool:
        """Whether it is likely to need large singular values only, so that trying float32 first saves time."""
        return 2 * self.rank <= dimension if self.rank is not None else (self.energy or 1.0) <= 0.9


def decomposition(weight: Weight, wanted: Wanted, cache: Cache, *, hopeful: bool) -> Decomposition:
    """The decomposition with at least the wanted rows: in float32 where that suffices for the wanted rank, else in float64.

    Which of the two never depends on what happens to be cached: the same request gives the same bytes.

    Args:
        weight: the weight to decompose; read only where the cache does not know it.
        wanted: the subspace rank that its rows must serve.
        cache: where the result is kept.
        hopeful: whether float32 is likely to suffice; if not, it is not tried.
    """
    if hopeful:
        known = _singular_values(weight, torch.float32, cache)
        fresh = _fresh(weight, torch.float32) if known is None else None
        values = known if fresh is None else fresh.singular_values
        assert values is not None
        rank = wanted.of(values)
        suffices = linalg.float32_rank(values) >= rank
        if fresh is not None:
            _keep(weight, fresh, cache, with_rows=suffices)
        if suffices:
            return fresh or _stored(weight, torch.float32, cache, rank) or _computed(weight, torch.float32, cache)
    known = _singular_values(weight, torch.float64, cache)
    stored = None if known is None else _stored(weight, torch.float64, cache, wanted.of(known))
    return stored or _computed(weight, torch.float64, cache)


def is_known(weight: Weight, cache: Cache) -> bool:
    """Whether some decomposition of ``weight`` is in the cache. Reads nothing."""
    return any(cache.path("weights", _entry(weight, p)).is_file() for p in (torch.float32, torch.float64))


def _entry(weight: Weight, precision: torch.dtype) -> str:
    return entry_key(weight.key, precision)


def _singular_values(weight: Weight, precision: torch.dtype, cache: Cache) -> Tensor | None:
    entry = cache.get("weights", _entry(weight, precision), only="singular_values")
    return None if entry is None else entry["singular_values"]


def _stored(weight: Weight, precision: torch.dtype, cache: Cache, rank: int | None) -> Decomposition | None:
    """The cached decomposition with the first ``rank`` rows (None: all); None where there is none with rows."""
    entry = cache.get("weights", _entry(weight, precision), rows={} if rank is None else {"rows": rank})
    if entry is None or "rows" not in entry:
        return None
    values, rows = (entry[name].to(weight.device) for name in ("singular_values", "rows"))
    return Decomposition(values, rows, linalg.short_side(weight.shape), precision)


def _fresh(weight: Weight, precision: torch.dtype) -> Decomposition:
    return linalg.decompose(weight.sound(), precision)


def _computed(weight: Weight, precision: torch.dtype, cache: Cache) -> Decomposition:
    result = _fresh(weight, precision)
    _keep(weight, result, cache, with_rows=True)
    return result


def _keep(weight: Weight, result: Decomposition, cache: Cache, *, with_rows: bool) -> None:
    """Cache a decomposition; without its rows it only says that float32 does not suffice."""
    tensors = {"singular_values": result.singular_values}
    if with_rows:
        tensors["rows"] = result.rows
    cache.put("weights", _entry(weight, result.precision), tensors)
