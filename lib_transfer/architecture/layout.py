"""The vocabulary an architecture is written in: slots, and layouts that list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lib_transfer.architecture.module import Kind, Position


@dataclass(frozen=True)
class Slot:
    """A place for one weight in one part of a model, at its full size.

    Attributes:
        path: the slot's name within its part, in the checkpoint's own words.
        kind: what the module there computes.
        shape: of the weight tensor; of the whole tensor where several slots share a fused one.
        weight: the weight's key within the part.
        bias: the bias's key within the part, or None where the layer has none.
        position: where it sits.
        spellings: ``(spelling, path)`` pairs: how other programs call this place (``ldm``, ``diffusers``, ``hf``, ...).
        output: the spelling that both hosts load, or None.
        third: which third of a fused q, k, v weight's rows this slot is, else None.
        fused: path of the fused module that this slot belongs to, else None.
        transposed: whether the tensor is stored as ``(in, out)``. Adapters write their updates ``(out, in)``, so no
            module stands for such a tensor; it is only listed.
    """

    path: str
    kind: Kind
    shape: tuple[int, ...]
    weight: str
    bias: str | None
    position: Position
    spellings: tuple[tuple[str, str], ...]
    output: str | None
    third: int | None = None
    fused: str | None = None
    transposed: bool = False


class Layout(Protocol):
    """One part of an architecture: a diffusion model or a text encoder. Implementations are frozen and hashable."""

    @property
    def part(self) -> str:
        """``unet``, ``te1``, ``te2``, ..."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What files put before the part's keys; the first is the canonical one."""

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
        """Weight keys (within the part) that even a pruned relative has."""


def shrink(size: int, width: int) -> int:
    """``size`` in a model whose first block is ``width`` wide instead of 320; a multiple of 8, rounded up.

    Sizes that must add up (the two halves of SDXL's context) are shrunk one by one and added afterwards.
    """
    return 8 * max(1, -(-size * width // (320 * 8)))
