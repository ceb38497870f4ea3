"""The names adapters give to the places of a model: one row per family of names.

A name is looked up, never parsed: a family says how a place's path becomes a name, and the names of all places make a
dictionary. A new family is a new row in an architecture's data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lib_transfer.architecture.layout import Share, Slot


@dataclass(frozen=True)
class Family:
    """How one family of adapters names the places of one part.

    Attributes:
        part: the part it names: ``unet``, ``te1``, ...
        style: whose spelling it starts from; slots without it have no name in the family.
        prefix: what stands before the path.
        separator: what stands for the dots of the path.
    """

    part: str
    style: str
    prefix: str
    separator: str = "_"

    def names(self, slot: Slot) -> Iterable[tuple[str, Share | None]]:
        """The slot's names in this family: none, one, or several where the style spells it in several ways."""
        if slot.position.part == self.part:
            for spelling in slot.spellings:
                if spelling.style == self.style:
                    yield self.prefix + spelling.path.replace(".", self.separator), spelling.share


def dotted(part: str, style: str, *prefixes: str) -> tuple[Family, ...]:
    """Families that write the path as it is, behind each of these prefixes."""
    return tuple(Family(part, style, prefix, ".") for prefix in prefixes)


def all_names(slot: Slot, families: tuple[Family, ...]) -> dict[str, Share | None]:
    """Every name of the slot, in the order of the families, with the rows of an update that are the slot's."""
    return {name: share for family in families for name, share in family.names(slot)}


def output_name(slot: Slot, families: tuple[Family, ...]) -> str | None:
    """The name that the hosts load: that of the first family in the slot's output style; None if there is none."""
    candidates = (name for family in families if family.style == slot.output for name, _ in family.names(slot))
    return next(candidates, None)
