"""What a plan is made of: a group of an adapter and the module it goes to, or why it goes nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lib_transfer.architecture.module import Binding, Module, Position
from lib_transfer.conversion.decision import Decision
from lib_transfer.conversion.pairing import How
from lib_transfer.formats.adapter import Group


@dataclass(frozen=True)
class Obstacle:
    """Why a module cannot be transferred."""

    decision: Decision
    reason: str


@dataclass(frozen=True)
class Pair:
    """One group of the adapter, or a share of it, the module it was trained on and the module it goes to.

    Attributes:
        group: the group.
        bound: all that the group changes: one module of the source (of the target when there is no source), or those
            that a fused weight is cut into.
        share: the number of the one that this pair is about.
        target: the module it goes to; None where there is none.
        how: how that is known.
        obstacle: what is in the way, if anything.
        hosts: the programs that the output is written for, as a sentence names them.
        remark: what a person should know of a module that is carried, as a part of a sentence.
        copies: the modules of inserted blocks that get what the target gets.
        factor: what of the update each of them gets, and the target too.
    """

    group: Group
    bound: tuple[Binding, ...]
    share: int
    target: Module | None
    how: How
    obstacle: Obstacle | None
    hosts: str = ""
    remark: str = ""
    copies: tuple[Module, ...] = ()
    factor: float = 1.0

    @property
    def source(self) -> Module:
        """The module it was trained on."""
        return self.bound[self.share].module

    @property
    def elsewhere(self) -> str:
        """The name it is written under, where that is a module of another name; else empty."""
        there = self.target is not None and (self.target.name != self.source.name or self.how == "by table")
        return (there and self.target and self.target.output_name) or ""

    @property
    def name(self) -> str:
        """For people: the group's name, and what of it is meant where that is only a share."""
        whole = self.bound[self.share].rows is None
        return self.group.name if whole else f"{self.group.name} [{self.source.name.rpartition('.')[2]}]"


@dataclass(frozen=True)
class Stranger:
    """A group that the origin has no module for.

    Attributes:
        group: the group.
        position: where its module sits in a checkpoint of the origin's kind that has it; None where the name is not known.
        reason: why the origin has none, as a sentence or a part of one.
    """

    group: Group
    position: Position | None
    reason: str


def whole_shape(bound: Sequence[Binding]) -> tuple[int, ...]:
    """Shape of the weight that a group changes, of which the bound modules are the parts.

    Flux and SD3 keep the query, key and value projections of an attention (and in Flux's single blocks the first layer of
    the feed-forward) in one weight. They are decomposed and carried one by one, and joined again when they are written.
    """
    first = bound[0].module.shape
    return (sum(binding.module.shape[0] for binding in bound), *first[1:])
