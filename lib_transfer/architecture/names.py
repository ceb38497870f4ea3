"""The names adapters give to the places of a model: one row per way of naming.

A name is looked up, never parsed: a :class:`Naming` says how a place's path becomes a name, and the names of all places make a
dictionary. A new one is a new row in an architecture's data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lib_transfer.architecture.layout import Share, Slot
from lib_transfer.spelling import usual

V = TypeVar("V")


class NamesOfPart(Protocol):
    """How some adapters name the places of one part."""

    @property
    def part(self) -> str:
        """The part it names: ``unet``, ``te1``, ..."""

    @property
    def style(self) -> str:
        """The style that it goes by."""

    def names(self, slot: Slot) -> Iterable[tuple[str, Share | None]]:
        """The slot's names, and which rows of an update under each are the slot's; none where it has no name."""

    def __hash__(self) -> int:
        """Equal ones are one key of a cache."""


@dataclass(frozen=True)
class Naming:
    """How some adapters name the places of one part.

    Attributes:
        part: the part it names: ``unet``, ``te1``, ...
        style: the style whose spelling it starts from; slots without it have no name in the naming.
        prefix: what stands before the path.
        separator: what stands for the dots of the path.
    """

    part: str
    style: str
    prefix: str
    separator: str = "_"

    def names(self, slot: Slot) -> Iterable[tuple[str, Share | None]]:
        """The slot's names: none, one, or several where the style spells it in several ways."""
        if slot.position.part == self.part:
            for spelling in slot.spellings:
                if spelling.style == self.style:
                    yield self.prefix + spelling.path.replace(".", self.separator), spelling.share


class NameTable(Mapping[str, V]):
    """Something for every name that an adapter can use; a name is found in its usual spelling too.

    See :func:`lib_transfer.spelling.usual` for what the two may differ in.
    """

    def __init__(self, entries: Mapping[str, V]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> V:
        found = self._entries.get(name)
        return self._entries[usual(name)] if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def dotted(part: str, style: str, *prefixes: str) -> tuple[Naming, ...]:
    """Namings that write the path as it is, behind each of these prefixes."""
    return tuple(Naming(part, style, prefix, ".") for prefix in prefixes)


def all_names(slot: Slot, namings: tuple[NamesOfPart, ...]) -> dict[str, Share | None]:
    """Every name of the slot, in the order of the namings, with the rows of an update that are the slot's."""
    return {name: share for naming in namings for name, share in naming.names(slot)}


def output_name(slot: Slot, namings: tuple[NamesOfPart, ...]) -> str | None:
    """The name that the hosts load: that of the first naming in the slot's output style; None if there is none."""
    candidates = (name for naming in namings if naming.style == slot.output for name, _ in naming.names(slot))
    return next(candidates, None)


def text_namings(
    part: str, *, underscored: tuple[str, ...], folder: str, comfy: str, omi: str | None = None
) -> tuple[Naming, ...]:
    """The namings of names of a text encoder in Hugging Face's spelling, with and without the ``text_model`` level.

    Args:
        part: ``te1``, ...
        underscored: prefixes of names with underscores; the first is written.
        folder: the prefix that diffusers gives it (``text_encoder_2.``); PEFT puts ``base_model.model.`` behind it.
        comfy: what ComfyUI calls it (``clip_l``).
        omi: what the Open Model Initiative's format calls it, which OneTrainer wrote in 2025; as ComfyUI where not given.
    """
    prefixes = (folder, f"{folder}base_model.model.", f"text_encoders.{comfy}.transformer.", f"{omi or comfy}.")
    return (
        *(Naming(part, style, prefix) for style in ("hf", "hf bare") for prefix in underscored),
        *(naming for style in ("hf", "hf bare") for naming in dotted(part, style, *prefixes)),
    )
