"""Subspaces of the weights of two checkpoints, and what pairs of them have in common, computed once and cached.

An entry per weight serves every subspace rank ``k``; an entry per pair of weights holds both similarities for every
``k``; an entry per pair and ``k`` holds the principal vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.errors import NumericError
from lib_transfer.formats.checkpoint import Store
from lib_transfer.formats.finite import is_finite
from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.subspace import Decomposition, PrincipalVectors, Subspace
from lib_transfer.storage.cache import Cache, entry_key


def read_weight(checkpoint: Store, module: Module) -> Tensor:
    """A module's weight in float32, its rows in the module's own order.

    Raises:
        BadFileError, StorageError: it cannot be read.
    """
    rows: tuple[tuple[int, int] | None, ...] = module.rows or (None,)
    parts = [checkpoint.read(module.weight, part, torch.float32) for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Weight:
    """One module's weight, read when first asked for.

    Args:
        checkpoint: where it lies.
        sha256: of the checkpoint's file.
        module: which of its modules.
        device: where the mathematics is done.
    """

    def __init__(self, checkpoint: Store, sha256: str, module: Module, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.module = module
        self.device = device
        self.key = entry_key(sha256, module.weight, module.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``, a convolution flattened."""
        return self.module.matrix_shape

    @cached_property
    def matrix(self) -> Tensor:
        """The weight ``(out, in)`` in float32.

        Raises:
            BadFileError: ``changed``: the file is no longer the one that was opened, and must not be cached as if it were.
        """
        weight = read_weight(self.checkpoint, self.module)
        self.checkpoint.need_unchanged()
        return weight.reshape(self.shape).to(self.device)

    def sound(self) -> Tensor:
        """:attr:`matrix`, once it is known to hold numbers only.

        Raises:
            NumericError: the weight holds NaN or infinity.
        """
        if not is_finite(self.matrix):
            raise NumericError(
                f"The tensor {self.module.weight} of {self.checkpoint.path} holds NaN or infinity.",
                hint="The checkpoint is damaged; download it again or take another copy.",
            )
        return self.matrix

    def decompose(self, precision: torch.dtype) -> Decomposition:
        """Its decomposition, computed anew.

        Raises:
            NumericError: the weight holds NaN or infinity.
        """
        return linalg.decompose(self.sound(), precision)


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


class Relation:
    """Two weights, their subspaces of one rank and how these lie to each other; nothing is computed before it is needed.

    Args:
        source, target: the two weights.
        wanted: the subspace rank; the source's singular values decide, capped at all sides.
        cache: where results are kept.
    """

    def __init__(self, source: Weight, target: Weight, wanted: Wanted, cache: Cache) -> None:
        self.source, self.target, self.cache = source, target, cache
        self._source = _decomposition(source, wanted, cache, hopeful=wanted.modest(min(source.shape)))
        capped = Wanted(None, min(wanted.of(self._source.singular_values), *target.shape))
        alike = linalg.float32_rank(self._source.singular_values) >= (capped.rank or 0)
        self._target = _decomposition(target, capped, cache, hopeful=alike)
        self._pair_key = entry_key(source.key, self._source.precision, target.key, self._target.precision)
        self.rank = capped.of(self._target.singular_values)

    @property
    def same_dimensions(self) -> bool:
        """Whether both weights have one shape as matrices."""
        return self.source.shape == self.target.shape

    @cached_property
    def similarity(self) -> Similarity:
        """Both similarities at this rank; zero where a weight is zero and has no directions."""
        k = self.rank
        if not self.same_dimensions:
            return Similarity(k, None, None, None, None)
        if k == 0:
            return Similarity(0, 0.0, 0.0, 0.0, 0.0)
        left, right = self._similarities()
        out, into = self.source.shape
        phi_left, phi_right = float(left[k - 1]), float(right[k - 1])
        return Similarity(
            k,
            phi_left,
            phi_right,
            linalg.chance_corrected(phi_left, k, out),
            linalg.chance_corrected(phi_right, k, into),
        )

    @cached_property
    def subspaces(self) -> tuple[Subspace, Subspace]:
        """The source's and the target's subspaces of this rank."""
        return (
            linalg.subspace(self._source, self.source.matrix, self.rank),
            linalg.subspace(self._target, self.target.matrix, self.rank),
        )

    @cached_property
    def principal(self) -> tuple[PrincipalVectors, PrincipalVectors]:
        """Principal vectors of the left and of the right subspaces; only for weights of one shape."""
        k = self.rank
        key = entry_key(self._pair_key, k)
        entry = self.cache.get("principal", key)
        if entry is not None:
            t = {name: tensor.to(self.source.device) for name, tensor in entry.items()}
            left, right = (
                PrincipalVectors(t[f"{s}.x"], t[f"{s}.y"], t[f"{s}.cosines"], t[f"{s}.squared_sines"])
                for s in ("left", "right")
            )
            return left, right
        left, right = (linalg.principal_vectors(overlap[:k, :k]) for overlap in self._overlaps)
        tensors = {
            f"{side}.{name}": getattr(vectors, name)
            for side, vectors in (("left", left), ("right", right))
            for name in ("x", "y", "cosines", "squared_sines")
        }
        self.cache.put("principal", key, tensors)
        return left, right

    def _similarities(self) -> tuple[Tensor, Tensor]:
        """``phi_left`` and ``phi_right`` for every rank."""
        entry = self.cache.get("similarities", self._pair_key)
        if entry is not None:
            return entry["left"], entry["right"]
        left, right = (linalg.similarity_by_rank(overlap) for overlap in self._overlaps)
        self.cache.put("similarities", self._pair_key, {"left": left, "right": right})
        return left, right

    @cached_property
    def _overlaps(self) -> tuple[Tensor, Tensor]:
        """``U_s^T U_t`` and ``V_s^T V_t`` of the whole bases."""
        source = _whole(self._source, self.source, self.cache)
        target = _whole(self._target, self.target, self.cache)
        return linalg.overlap(source.left, target.left), linalg.overlap(source.right, target.right)


def _whole(decomposition: Decomposition, weight: Weight, cache: Cache) -> Subspace:
    """Every direction of ``weight`` whose singular value means something."""
    if decomposition.rows.shape[0] < decomposition.singular_values.shape[0]:
        stored = _stored(weight, decomposition.precision, cache, None)
        decomposition = stored or _computed(weight, decomposition.precision, cache)
    return linalg.subspace(decomposition, weight.matrix, linalg.numerical_rank(decomposition.singular_values))


def _decomposition(weight: Weight, wanted: Wanted, cache: Cache, *, hopeful: bool) -> Decomposition:
    """The decomposition with at least the wanted rows: in float32 where that suffices for the wanted rank, else in float64.

    Which of the two never depends on what happens to be cached: the same request gives the same bytes.

    Args:
        weight, wanted, cache: as in :class:`Relation`.
        hopeful: whether float32 is likely to suffice; if not, it is not tried.
    """
    if hopeful:
        known = _singular_values(weight, torch.float32, cache)
        fresh = weight.decompose(torch.float32) if known is None else None
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


def _computed(weight: Weight, precision: torch.dtype, cache: Cache) -> Decomposition:
    result = weight.decompose(precision)
    _keep(weight, result, cache, with_rows=True)
    return result


def _keep(weight: Weight, result: Decomposition, cache: Cache, *, with_rows: bool) -> None:
    """Cache a decomposition; without its rows it only says that float32 does not suffice."""
    tensors = {"singular_values": result.singular_values}
    if with_rows:
        tensors["rows"] = result.rows
    cache.put("weights", _entry(weight, result.precision), tensors)
