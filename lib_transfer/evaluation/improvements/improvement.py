"""What makes a better adapter for the target: the protocol, and what an improvement is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from lib_transfer.architecture.module import Module, Position
from lib_transfer.evaluation.streams import Streams
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model
from lib_transfer.progress import Progress
from lib_transfer.update import Updates

GIVEN = "given"
"""The start that is the adapter as it was given: the original reused, or the first transferred one where that is impossible."""


@dataclass(frozen=True)
class Scale:
    """What the number of an improvement's runs depends on.

    Attributes:
        inputs: the number of inputs that are fitted to.
        groups: the number of groups that the modules of the given adapter are in.
        blocks: the number of the target's transformer blocks.
    """

    inputs: int
    groups: int
    blocks: int


@dataclass(frozen=True, eq=False)
class Target:
    """The model that the adapter is for.

    Attributes:
        model: the model, in memory.
        groups: the group of every module, by canonical name; see :func:`groups`.
    """

    model: Model
    groups: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was seen of both models on the inputs that are fitted to; none of them is used for a match.

    Attributes:
        inputs: the ``n`` inputs, in the target's latent space.
        movement: how the source moves on them under the original adapter ``(n, channels, height, width)``.
        without: what the target predicts for them without an adapter, of the same shape.
        streams: the source's residual streams on them; None where no improvement asked for them.
        numbers: the numbers under which the streams of the ``n`` inputs are kept.
        folder: a folder for what is too large for memory; it is removed afterwards.
    """

    inputs: Inputs
    movement: Tensor
    without: Tensor
    streams: Streams | None
    numbers: Sequence[int]
    folder: Path


@dataclass(frozen=True, eq=False)
class Start:
    """The adapter that an improvement begins with.

    Attributes:
        name: :data:`GIVEN`, or the name of the improvement that made it; empty where it begins with nothing.
        updates: the adapter, by canonical name of the target's module.
    """

    name: str
    updates: Updates


class Improvement(Protocol):
    """One way to make a better adapter. Each is a file of this folder, and is listed in :func:`improvements`.

    Attributes:
        name: the name of the adapter that it makes.
        starts: the adapters that it can begin with, :data:`GIVEN` or names of improvements that are listed before it: the
            first one that there is. Empty where it begins with nothing.
        needs_streams: whether it needs the source's residual streams.
        needs_gradients: whether the target has to be differentiable.
    """

    @property
    def name(self) -> str: ...
    @property
    def starts(self) -> Sequence[str]: ...
    @property
    def needs_streams(self) -> bool: ...
    @property
    def needs_gradients(self) -> bool: ...

    def cost(self, scale: Scale) -> int:
        """How many runs of the target it takes at most; a run with gradients counts as three."""

    def improve(self, target: Target, evidence: Evidence, start: Start, progress: Progress) -> Updates:
        """The adapter that it makes, by canonical name of the target's module.

        Args:
            target: the model, which is as it was afterwards.
            evidence: what the adapter is fitted to.
            start: the adapter that it begins with.
            progress: asked before every run whether to stop; it gets a step for every run that :meth:`cost` counts.

        Raises:
            CancelledError: the person asked to stop.
        """


WORK = {"attn1": "self-attention", "attn2": "cross-attention", "ff": "feed-forward"}


def groups(modules: Iterable[Module]) -> dict[str, str]:
    """The group of every module, by canonical name: its stage and its role, such as ``output cross-attention``.

    Modules of one group do the same kind of work in the same part of a network.
    """
    return {module.name: group_of(module.position) for module in modules}


def group_of(position: Position) -> str:
    """The group of a module at ``position``; a text encoder is one group."""
    if position.part.startswith("te"):
        return f"text encoder {position.part.removeprefix('te')}".strip()
    stage = position.stage.split(" ")[0] or position.part
    return f"{stage} {WORK.get(position.role.split('.')[0], 'rest')}"
