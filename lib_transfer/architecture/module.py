"""What a checkpoint is made of: modules, where they sit, and every name they go by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["linear", "convolution", "norm", "embedding"]

Rows = tuple[tuple[int, int], ...]
"""Half-open ranges of rows, in the order in which they are laid one below the other."""


@dataclass(frozen=True)
class Position:
    """Where a module sits; a heat map draws ``part``/``stage``/``block`` against ``role``.

    Attributes:
        part: ``unet`` or ``transformer``, ``te1``, ``te2``, ...
        stage: the stretch of blocks that share a resolution: ``input 1``, ``middle``, ``output 2``; ``layers`` in a text
            encoder; ``double`` and ``single`` in a transformer.
        block: the block's short name within the part, as users know it: ``IN04``, ``MID``, ``OUT05``, ``layer 7``.
        depth: order along the forward pass within the part, from 0.
        role: what the module does in its block: ``attn1.to_q``, ``ff.net.2``, ``conv1``, ``mlp.fc1``, ...; the same
            word for the same job in every block.
        unit: what is aligned as a whole between relatives of different depth: the path of the transformer block, residual
            block or attention that the module is in; empty where it is in none.
    """

    part: str
    stage: str
    block: str
    depth: int
    role: str
    unit: str = ""


class Name(NamedTuple):
    """A module name in an adapter, and what of the update under this name is the module's.

    Attributes:
        text: the name.
        rows: the module's rows of the update; None where the whole update is the module's.
    """

    text: str
    rows: Rows | None


@dataclass(frozen=True)
class Module:
    """One weight of a checkpoint that an adapter can change.

    Attributes:
        name: canonical name: the module path of a full single-file checkpoint, whatever way this file is laid out. Modules of
            two checkpoints of one architecture correspond when their names are equal. A slice of a fused weight has the
            part's name appended, as in ``...attn.in_proj.q``.
        weight: the tensor's key in this file.
        bias: the bias tensor's key in this file, if it has one.
        kind: what the module computes.
        shape: the shape of the weight (of the slice, if there is one): ``(out, in)``, ``(out, in, kh, kw)`` or ``(features,)``.
        rows: which rows of the tensor this module is, in the module's own order; None for all, as they are.
        transposed: whether the tensor is the transpose of the weight.
        fused: canonical name of the attention that this one is a part of, where hosts load its parts only together, else
            None.
        position: where it sits.
        names: every module name an adapter can use for it, all namings.
        output: the one of ``names`` that the hosts load, else None: such a module's update cannot be written. Where
            it has rows, the modules of one output name are written as one update.
    """

    name: str
    weight: str
    bias: str | None
    kind: Kind
    shape: tuple[int, ...]
    rows: Rows | None
    fused: str | None
    position: Position
    names: tuple[Name, ...]
    output: Name | None
    transposed: bool = False

    @property
    def output_name(self) -> str | None:
        """The name under which its update is written, if it can be."""
        return None if self.output is None else self.output.text

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """``(out, in)`` of the weight as a matrix; a convolution is flattened to ``(out, in*kh*kw)``."""
        return self.shape[0], math.prod(self.shape[1:])


class Binding(NamedTuple):
    """A module that an adapter's group changes, and the rows of the group's update that are for it (None: all)."""

    module: Module
    rows: Rows | None
