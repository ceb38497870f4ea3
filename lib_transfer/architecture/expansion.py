"""How relatives of a model were made deeper: copies of blocks were put between its blocks, and trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Expansion:
    """A published relative with more blocks.

    Attributes:
        shallow, deep: how many blocks there were, and how many there are.
        inserted: the numbers of the blocks that were put in, each with the number of the shallow one's block that it was
            copied from. The others are the shallow one's blocks, in their order.
    """

    shallow: int
    deep: int
    inserted: tuple[tuple[int, int], ...]


class Origin(NamedTuple):
    """What a block of a deeper relative was made from: the number of the shallow one's block, and whether it is that block."""

    block: int
    own: bool


def origins(expansions: Sequence[Expansion], shallow: int, deep: int) -> tuple[Origin, ...] | None:
    """What every block of the relative with ``deep`` blocks was made from; None where no expansions lead there."""
    found = tuple(Origin(block, own=True) for block in range(shallow))
    while len(found) < deep:
        step = next((step for step in expansions if step.shallow == len(found) and step.deep <= deep), None)
        if step is None:
            return None
        found = tuple(Origin(found[it.block].block, found[it.block].own and it.own) for it in _one_step(step))
    return found if len(found) == deep else None


def _one_step(expansion: Expansion) -> list[Origin]:
    inserted = dict(expansion.inserted)
    kept = iter(range(expansion.shallow))
    return [
        Origin(inserted[block], own=False) if block in inserted else Origin(next(kept), own=True)
        for block in range(expansion.deep)
    ]
