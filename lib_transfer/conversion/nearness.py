"""How far apart the weights of two checkpoints of one architecture are: what tells a fine-tune from a stranger of the same shape.

The relative distance of two weights is ``||T - S||_F / ||S||_F``. Their cosine is 1 where they are equal, and where they have
nothing to do with each other it is 0 with a standard deviation of ``1 / sqrt(n)`` for ``n`` numbers, whatever their sizes. Some
rows of a few weights are read, one weight at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.cosines import sampled
from lib_transfer.conversion.parallel import one_thread_each
from lib_transfer.conversion.sketches import coarser
from lib_transfer.formatting import percent
from lib_transfer.library.base import Base
from lib_transfer.storage.cache import Cache, entry_key

SAMPLED = 8
"""How many weights are compared, from the first to the last of the diffusion model at equal distances."""

CHANCE = 3.0
"""So many standard deviations from 0 a cosine is no chance any more."""


@dataclass(frozen=True)
class Nearness:
    """How far apart two checkpoints are.

    Attributes:
        distance: the mean relative distance of the sampled weights.
        cosine: their mean cosine.
        weights, numbers: how many weights, and how many numbers of them, were compared.
        equal: whether all of these numbers are equal, as far as the coarser of both number formats tells.
    """

    distance: float
    cosine: float
    weights: int
    numbers: int
    equal: bool

    @property
    def related(self) -> bool:
        """Whether they are more alike than weights that have nothing to do with each other."""
        return self.cosine > CHANCE / math.sqrt(self.numbers)

    @property
    def told(self) -> str:
        """The same for people, and whether reuse is expected to do."""
        if self.equal:
            return f"Source and target are the same model as far as {self.weights} sampled weights tell: reuse is all it takes."
        apart = f"{self.weights} sampled weights differ by {percent(self.distance)} of their size (cosine {self.cosine:.3f})"
        if self.related:
            return (
                f"Source and target are relatives: {apart}. Plain reuse is expected to do as well there as any method that "
                "looks at weights alone."
            )
        return (
            f"Source and target are not related: {apart}, as weights do that have nothing to do with each other. Plain reuse is "
            "not expected to work."
        )


def nearness(source: Base, target: Base, cache: Cache) -> Nearness | None:
    """How far apart two checkpoints are; None where they are of different architectures, or share no weight that tells.

    Raises:
        BadFileError, StorageError: a weight cannot be read.
    """
    pairs = _pairs(source, target)
    if not pairs:
        return None
    key = entry_key("nearness", source.sha256, target.sha256, tuple(module.name for module, _ in pairs))
    entry = cache.get("similarities", key)
    if entry is None:
        with one_thread_each(), torch.inference_mode():
            rows = [row for pair in pairs if (row := _compared(source, target, *pair)) is not None]
        if not rows:
            return None
        for base in (source, target):
            base.checkpoint.need_unchanged()
        entry = {"rows": torch.tensor(rows, dtype=torch.float64)}
        cache.put("similarities", key, entry)
    found: Tensor = entry["rows"].double()
    distance, cosine, numbers, equal = found.T
    return Nearness(
        float(distance.mean()), float(cosine.mean()), len(found), int(numbers.sum()), bool(equal.all().item())
    )


def _pairs(source: Base, target: Base) -> list[tuple[Module, Module]]:
    """A few weights of the diffusion model that both have."""
    if source.architecture != target.architecture:
        return []
    part = source.architecture.core.part
    both = [(m, target.by_name[m.name]) for m in source.modules if m.position.part == part and m.name in target.by_name]
    telling = [(one, other) for one, other in both if one.kind == "linear" and one.shape == other.shape]
    whole = [(one, other) for one, other in telling if one.rows is None and other.rows is None] or telling
    return [whole[place] for place in _spread(len(whole))]


def _spread(count: int) -> Sequence[int]:
    """At most :data:`SAMPLED` of so many places, from the first to the last."""
    if count <= SAMPLED:
        return range(count)
    return [place * (count - 1) // (SAMPLED - 1) for place in range(SAMPLED)]


def _compared(source: Base, target: Base, one: Module, other: Module) -> tuple[float, float, float, float] | None:
    """Distance, cosine, how many numbers and whether they are equal; None where a weight is zero, or holds no numbers."""
    ours, theirs = (sampled(base.checkpoint, m).double() for base, m in ((source, one), (target, other)))
    sizes = float(ours.norm()), float(theirs.norm())
    if not all(math.isfinite(size) and size > 0 for size in sizes) or len(ours) != len(theirs):
        return None
    dtype = coarser(source.checkpoint.dtype(one.weight), target.checkpoint.dtype(other.weight))
    equal = torch.equal(ours.to(dtype), theirs.to(dtype))
    distance, cosine = float((theirs - ours).norm()) / sizes[0], float(ours @ theirs) / (sizes[0] * sizes[1])
    return distance, cosine, float(len(ours)), float(equal)
