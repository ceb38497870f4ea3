"""The vocabulary an architecture is written in: slots, and layouts that list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lib_transfer.architecture.module import Kind, Position, Rows


@dataclass(frozen=True)
class Share:
    """Which rows of a weight a place is, and in which order.

    Attributes:
        parts: half-open ranges, in units of rows.
        of: how many units the whole weight has.
    """

    parts: tuple[tuple[int, int], ...]
    of: int

    @property
    def units(self) -> int:
        """How many units the place has."""
        return sum(last - first for first, last in self.parts)

    def rows(self, unit: int) -> Rows:
        """The rows, where a unit has ``unit`` of them."""
        return tuple((first * unit, last * unit) for first, last in self.parts)


def third(number: int) -> Share:
    """q (0), k (1) or v (2) of a fused q, k, v weight."""
    return Share(((number, number + 1),), 3)


SWAPPED = Share(((1, 2), (0, 1)), 2)
"""Both halves the other way round: diffusers keeps scale and shift of the last normalisation in the other order."""


@dataclass(frozen=True)
class Stored:
    """How files of one style keep a place.

    Attributes:
        style: the style of the keys: ``ldm``, ``diffusers``, ``hf``, ``openclip``, ...
        weight: the weight's key within the part.
        bias: the bias's key within the part, or None where the layer has none.
        share: which rows of the tensor are the place's; None for all.
        transposed: whether the tensor is kept as ``(in, out)``; updates of it are ``(out, in)`` all the same.
    """

    style: str
    weight: str
    bias: str | None
    share: Share | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Spelling:
    """How adapters of one family spell a place.

    Attributes:
        style: ``ldm``, ``diffusers``, ``hf``, ...
        path: the place, with dots.
        share: which rows of an update under this spelling are the place's; None for all.
    """

    style: str
    path: str
    share: Share | None = None


@dataclass(frozen=True)
class Slot:
    """A place for one weight in one part of a model, at its full size.

    Attributes:
        path: the slot's name within its part, in the words of the canonical checkpoint.
        kind: what the module there computes.
        shape: the shape of the slot's own weight.
        position: where it sits.
        stored: the ways in which files keep it; the canonical one first.
        spellings: how adapters call it.
        output: the style of the spelling that the hosts load, or None.
        fused: path of the attention whose parts hosts load only together, else None.
    """

    path: str
    kind: Kind
    shape: tuple[int, ...]
    position: Position
    stored: tuple[Stored, ...]
    spellings: tuple[Spelling, ...]
    output: str | None
    fused: str | None = None

    def stored_as(self, style: str) -> tuple[Stored, ...]:
        """The ways in which files of this style keep it, the usual one first; none where they do not."""
        return tuple(stored for stored in self.stored if stored.style == style)


@dataclass(frozen=True)
class KeyLayout:
    """Where files keep a part: what stands before its keys, and the style of the keys."""

    prefix: str
    style: str


class Layout(Protocol):
    """One part of an architecture: a diffusion model or a text encoder. Implementations are frozen and hashable."""

    @property
    def part(self) -> str:
        """``unet``, ``transformer``, ``te1``, ``te2``, ..."""

    @property
    def model(self) -> str:
        """What this is wherever it occurs; parts of one model in two architectures have the same paths (``clip-l``)."""

    @property
    def key_layouts(self) -> tuple[KeyLayout, ...]:
        """Where files keep the part; the first is canonical."""

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass; the same object on every call."""

    def scaled(self, width: int) -> Layout:
        """The same structure with every width reduced as :func:`shrink` does."""

    def __hash__(self) -> int:
        """Equal layouts are one key of a cache."""


class Core(Layout, Protocol):
    """The layout that decides what a checkpoint is: the diffusion model's."""

    @property
    def essential(self) -> frozenset[str]:
        """Paths of the slots that even a pruned relative has."""


def shrink(size: int, width: int, of: int = 320) -> int:
    """``size`` in a model whose first block is ``width`` wide instead of ``of``; a multiple of 8, rounded up.

    Sizes that must add up (the two halves of SDXL's context) are shrunk one by one and added afterwards.
    """
    return 8 * max(1, -(-size * width // (of * 8)))
