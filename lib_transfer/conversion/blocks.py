"""Which blocks of two relatives of different depth correspond, and which were inserted as copies of which.

By the weights, where both checkpoints are there: blocks are aligned in order so that the sum of their cosines is largest. The
layers that an inserted block has from another say which one that was; those that were zeroed in it tell it from that one.
Without the source, by the tables that were published with the relatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from lib_transfer.architecture.alignment import align
from lib_transfer.architecture.architecture import Depths
from lib_transfer.architecture.expansion import origins
from lib_transfer.architecture.module import Module
from lib_transfer.conversion.cosines import cosines
from lib_transfer.library.base import Base
from lib_transfer.storage.cache import Cache

LEAST = 0.1
"""The mean cosine from which on an inserted block counts as a copy of another; unrelated ones have about 0."""

_EQUAL = 1e-6
_EXAMPLES = 3


@dataclass(frozen=True)
class Blocks:
    """Where each block of a model goes in a relative of another depth.

    Attributes:
        to: the number of the target's block for every block of the source; None where there is none.
        copies: the numbers of the target's blocks that were inserted as copies, for every block of the source.
        target: how many blocks the target has.
        cosines: the mean cosines of the pairs; empty where no weights were looked at.
        published: the same by the published tables; None where there is none, or no weights were looked at.
    """

    to: tuple[int | None, ...]
    copies: tuple[tuple[int, ...], ...]
    target: int
    cosines: tuple[float, ...] = ()
    published: Blocks | None = None

    @property
    def inserted(self) -> tuple[int, ...]:
        """The target's blocks that no block of the source goes to."""
        return tuple(sorted(set(range(self.target)) - set(self.to)))

    @property
    def lost(self) -> tuple[int, ...]:
        """The source's blocks that go nowhere."""
        return tuple(block for block, there in enumerate(self.to) if there is None)


def number(module: Module) -> int:
    """The number of the block that a module of a diffusion model with free depth is in; -1 where it is in none."""
    _, _, digits = module.position.unit.rpartition(".")
    return int(digits) if digits.isdecimal() else -1


def depth(modules: Iterable[Module], part: str) -> int:
    """How many blocks a part has: one more than the highest number."""
    return max((number(module) for module in modules if module.position.part == part), default=-1) + 1


def core_depth(base: Base) -> int:
    """How many blocks the diffusion model of a base has."""
    return depth(base.modules, base.architecture.core.part)


def published(depths: Depths, source: int, target: int) -> Blocks | None:
    """Where blocks go by the published tables, from so many blocks to so many; None where no table tells."""
    shallow, deep = sorted((source, target))
    found = origins(depths.expansions, shallow, deep)
    if found is None:
        return None
    own = {origin.block: block for block, origin in enumerate(found) if origin.own}
    if source > target:
        back: Mapping[int, int] = {block: origin for origin, block in own.items()}
        return Blocks(tuple(map(back.get, range(source))), ((),) * source, target)
    copies = tuple(
        tuple(block for block, origin in enumerate(found) if origin.block == it and not origin.own)
        for it in range(source)
    )
    return Blocks(tuple(map(own.get, range(source))), copies, target)


def by_weights(source: Base, target: Base, cache: Cache) -> Blocks | None:
    """Where blocks go by their weights; None where both have as many, or the number of blocks is free in neither.

    Raises:
        BadFileError, StorageError: a weight cannot be read.
    """
    depths = source.architecture.depths or target.architecture.depths
    related = source.architecture.family == target.architecture.family
    if depths is None or not related or core_depth(source) == core_depth(target):
        return None
    ours, theirs = _blocks(source), _blocks(target)
    copied, zeroed = (cosines(source, target, ours, theirs, roles, cache) for roles in (depths.copied, depths.zeroed))
    scores = [[fmean(both) for both in zip(*rows, strict=True)] for rows in zip(copied, zeroed, strict=True)]
    table = published(depths, len(ours), len(theirs))
    to = align(scores)
    # Copies that were never trained are equal: no weight tells which of them a block is.
    if table is not None and _alike(scores, table.to) >= _alike(scores, to) - _EQUAL:
        to = table.to
    return Blocks(
        to,
        _copies(copied, to, len(theirs)) if len(ours) < len(theirs) else ((),) * len(ours),
        len(theirs),
        tuple(scores[block][there] for block, there in enumerate(to) if there is not None),
        table,
    )


def _alike(scores: Sequence[Sequence[float]], to: Sequence[int | None]) -> float:
    """The sum of the scores of the pairs."""
    return math.fsum(scores[block][there] for block, there in enumerate(to) if there is not None)


def _blocks(base: Base) -> list[tuple[Module, ...]]:
    """The modules of every block of the diffusion model."""
    part = base.architecture.core.part
    found: list[list[Module]] = [[] for _ in range(core_depth(base))]
    for module in base.modules:
        if module.position.part == part and module.position.unit:
            found[number(module)].append(module)
    return [tuple(modules) for modules in found]


def _copies(scores: Sequence[Sequence[float]], to: Sequence[int | None], deep: int) -> tuple[tuple[int, ...], ...]:
    """For every block of the source, the blocks between those that it and its neighbours go to that are most like it.

    Of two that are as like, the one before it has it: that is where copies were put.
    """
    found: list[list[int]] = [[] for _ in to]
    pairs = [(block, there) for block, there in enumerate(to) if there is not None]
    for (block, there), (following, beyond) in pairwise([(0, -1), *pairs, (len(to) - 1, deep)]):
        for inserted in range(there + 1, beyond):
            best = max(range(block, following + 1), key=lambda it: scores[it][inserted])
            if scores[best][inserted] >= LEAST:
                found[best].append(inserted)
    return tuple(map(tuple, found))


def told(blocks: Blocks, inserted: str) -> tuple[str, ...]:
    """Sentences: what the pairing of blocks by their weights came to, and what inserted blocks get.

    Args:
        blocks: the pairing.
        inserted: the setting of that name.
    """
    mean, least = fmean(blocks.cosines or (0.0,)), min(blocks.cosines, default=0.0)
    return (
        f"The source has {len(blocks.to)} blocks and the target {blocks.target}. Each goes to the one that it is most like by "
        f"its weights (cosine {mean:.3f} on average, {least:.3f} at the least); {_beside_the_table(blocks)}.",
        *what_is_left(blocks, inserted),
    )


def what_is_left(blocks: Blocks, inserted: str) -> tuple[str, ...]:
    """Sentences: what blocks get that were inserted, and what becomes of those that the target lacks."""
    found = []
    if blocks.inserted:
        words = {
            "empty": "get nothing",
            "copy": "get a copy of the update of the block that each was copied from",
            "share": "get equal shares of the update of the block that each was copied from, which keeps one",
        }
        found.append(f"Inserted blocks of the target ({_numbers(blocks.inserted)}) {words[inserted]}.")
        orphans = sorted(set(blocks.inserted) - {copy for copies in blocks.copies for copy in copies})
        if orphans and inserted != "empty":
            found.append(f"Of these, {_numbers(orphans)} are like no block of the source and get nothing.")
    if blocks.lost:
        found.append(
            f"The target has no counterpart of the source's blocks {_numbers(blocks.lost)}: "
            "what the LoRA does to them is left out."
        )
    return tuple(found)


def _beside_the_table(blocks: Blocks) -> str:
    """Whether the published table says the same, as a part of a sentence."""
    if blocks.published is None:
        return "no table of these depths is published"
    pairs = zip(blocks.to, blocks.published.to, strict=True)
    others = [(block, ours, theirs) for block, (ours, theirs) in enumerate(pairs) if ours != theirs]
    if not others:
        return "the published table says the same"
    examples = "; ".join(
        f"block {block} goes to {_place(ours)}, in the table to {_place(theirs)}"
        for block, ours, theirs in others[:_EXAMPLES]
    )
    more = " and so on" if len(others) > _EXAMPLES else ""
    return f"the published table says otherwise of {len(others)} of them ({examples}{more}), and was not followed"


def _place(block: int | None) -> str:
    return "none" if block is None else str(block)


def _numbers(blocks: Sequence[int]) -> str:
    return ", ".join(map(str, blocks))
