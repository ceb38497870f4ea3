"""For how many blocks an adapter is, where a diffusion model has relatives of several depths, and what follows from it.

Nothing but the numbers in its names and, rarely, its metadata tells it. An adapter that another tool has moved to a deeper
relative's blocks must not be moved again.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_transfer.architecture.architecture import Architecture, Depths, deepest, full_index
from lib_transfer.architecture.expansion import origins
from lib_transfer.conversion.blocks import Blocks, core_depth, number, published, what_is_left
from lib_transfer.errors import MismatchError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.metadata import BLOCKS
from lib_transfer.library.base import Base


@dataclass(frozen=True)
class MadeFor:
    """What is known of the depth that an adapter is for.

    Attributes:
        blocks: the numbers of the blocks that it changes.
        depth: the number of blocks it is for, by its metadata, or because it changes the last block of a published model; None
            where nothing tells.
        by_metadata: whether the metadata say so.
        moved_from: how many blocks the model had that it was trained on, where it looks as if a tool moved it from there; None
            where it does not.
    """

    blocks: frozenset[int]
    depth: int | None
    by_metadata: bool
    moved_from: int | None

    @property
    def highest(self) -> int:
        """The highest of its blocks; -1 where it changes none."""
        return max(self.blocks, default=-1)

    @property
    def why(self) -> str:
        """What tells the depth, as the beginning of a sentence."""
        if self.by_metadata:
            return f"The LoRA's metadata say that it is for {self.depth} blocks"
        return f"The LoRA's highest block is {self.highest}, as in LoRAs for {self.depth} blocks"


def made_for(adapter: Adapter, architecture: Architecture) -> MadeFor | None:
    """What is known of an adapter; None where the architecture's number of blocks is not free, or it changes none."""
    depths = architecture.depths
    if depths is None:
        return None
    names, part = full_index(deepest(architecture)), architecture.core.part
    bound = (module for name in adapter.groups for module, _ in names.get(name, ()))
    blocks = frozenset(number(module) for module in bound if module.position.part == part) - {-1}
    if not blocks:
        return None
    says = next((text for key in (BLOCKS, depths.entry) if (text := adapter.metadata.get(key))), "")
    written = int(says) if says.isdecimal() and len(says) < 4 else 0
    by_metadata = written in depths.known and written > max(blocks)
    reached = max(blocks) + 1
    depth = written if by_metadata else reached if reached in depths.known else None
    return MadeFor(blocks, depth, by_metadata, _moved_from(depths, blocks))


def _moved_from(depths: Depths, blocks: frozenset[int]) -> int | None:
    """How many blocks a model had whose blocks are exactly these ones in a deeper relative."""
    for deep in depths.known:
        for shallow in depths.known:
            found = origins(depths.expansions, shallow, deep) if shallow < deep else None
            if found is not None and blocks == {block for block, origin in enumerate(found) if origin.own}:
                return shallow
    return None


def need_depth(adapter: Adapter, source: Base) -> tuple[str, ...]:
    """Raise where an adapter is for another number of blocks than the checkpoint it is said to be trained on.

    Returns:
        A sentence where it may be for another one.

    Raises:
        MismatchError: it changes blocks that the source has not, or its metadata say that it is for another number.
    """
    found, own = made_for(adapter, source.architecture), core_depth(source)
    if found is None or (found.depth == own and found.moved_from is None):
        return ()
    name = source.path.name
    if found.highest >= own or (found.by_metadata and found.depth != own):
        why = (
            found.why
            if found.by_metadata
            else f"The LoRA changes blocks up to {found.highest}"
            + (f", as one that a tool moved from {found.moved_from} blocks" if found.moved_from else "")
        )
        raise MismatchError(
            f"{why}, and the source {name} has {own}, so it was not moved.",
            hint="If it is for the target's number of blocks already, use it as it is. Otherwise name a checkpoint with the "
            "blocks that it is for as the source.",
        )
    if found.moved_from is not None:
        return (_moved(found),)
    if found.depth is None:
        return ()
    return (f"{found.why}, and the source {name} has {own}: make sure that it was trained on that one.",)


def by_the_table(adapter: Adapter, target: Base, inserted: str) -> tuple[Blocks | None, tuple[str, ...]]:
    """Where the blocks of an adapter go when nothing but the target is there, and what to say of it.

    Returns:
        The published table, where the adapter is for another depth and there is one; and sentences.
    """
    found, own = made_for(adapter, target.architecture), core_depth(target)
    if found is None:
        return None, ()
    moved = (_moved(found),) if found.moved_from is not None else ()
    depths = target.architecture.depths
    assert depths is not None
    advice = "Name the checkpoint that it was trained on, with a method that takes a source"
    if found.depth is None and any(found.highest < shallower < own for shallower in depths.known):
        text = (
            f"Nothing tells for how many blocks the LoRA is, whose highest is {found.highest}: it was taken to be for the {own} "
            f"of {target.path.name}. {advice}, if it is not."
        )
        return None, (*moved, text)
    if found.depth is None or found.depth == own:
        return None, moved
    blocks = published(depths, found.depth, own)
    if blocks is None:
        text = f"{found.why}, and {target.path.name} has {own}: by their names alone its blocks are other ones there. {advice}."
        return None, (*moved, text)
    text = (
        f"{found.why}, and {target.path.name} has {own}: its blocks were moved as the published table says, which no weights "
        f"were asked about. {advice}, to go by the weights."
    )
    return blocks, (*moved, text, *what_is_left(blocks, inserted))


def _moved(found: MadeFor) -> str:
    return (
        f"The LoRA looks as if a tool moved it from {found.moved_from} blocks to {found.highest + 1}: those that were inserted, "
        "and no others, have no update. It is taken as it is."
    )
