"""The names adapters give to the places of a model: one row per family of names.

A name is looked up, never parsed: a family says how a place's path becomes a name, and the names of all places make a
dictionary. A new family (PEFT's dotted names, ``lycoris_``, ``lora_transformer_``, ...) is a new row in an
architecture's data.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_transfer.architecture.layout import Slot


@dataclass(frozen=True)
class Family:
    """How one family of adapters names the places of one part.

    Attributes:
        part: the part it names: ``unet``, ``te1``, ...
        spelling: whose path it starts from; slots without this spelling have no name in the family.
        prefix: what stands before the path.
        separator: what stands for the dots of the path.
    """

    part: str
    spelling: str
    prefix: str
    separator: str = "_"

    def name(self, slot: Slot) -> str | None:
        """The slot's name in this family, or None if it has none."""
        if slot.position.part != self.part:
            return None
        path = dict(slot.spellings).get(self.spelling)
        return None if path is None else self.prefix + path.replace(".", self.separator)


def all_names(slot: Slot, families: tuple[Family, ...]) -> tuple[str, ...]:
    """Every name of the slot, without repetitions, in the order of the families."""
    return tuple(dict.fromkeys(name for family in families if (name := family.name(slot)) is not None))


def output_name(slot: Slot, families: tuple[Family, ...]) -> str | None:
    """The name that both hosts load: that of the first family in the slot's output spelling; None if there is none."""
    candidates = (family.name(slot) for family in families if family.spelling == slot.output)
    return next((name for name in candidates if name is not None), None)
