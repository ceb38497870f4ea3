"""What a checkpoint is made of: modules, where they sit, and every name they go by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "convolution", "norm", "embedding"]


@dataclass(frozen=True)
class Position:
    """Where a module sits; a heat map draws ``part``/``stage``/``block`` against ``role``.

    Attributes:
        part: ``unet``, ``te1``, ``te2``, ...
        stage: the stretch of blocks that share a resolution: ``input 1``, ``middle``, ``output 2``; ``layers`` in a text
            encoder.
        block: the block's short name within the part, as users know it: ``IN04``, ``MID``, ``OUT05``, ``layer 7``.
        depth: order along the forward pass within the part, from 0.
        role: what the module does in its block: ``attn1.to_q``, ``ff.net.2``, ``conv1``, ``mlp.fc1``, ...; the same
            word for the same job in every block.
    """

    part: str
    stage: str
    block: str
    depth: int
    role: str


@dataclass(frozen=True)
class Module:
    """One weight of a checkpoint that an adapter can change.

    Attributes:
        name: canonical name: the module path of a full single-file checkpoint, whatever prefix this file uses. Modules of
            two checkpoints of one architecture correspond when their names are equal. A slice of a fused weight has the
            part's name appended, as in ``...attn.in_proj.q``.
        weight: the tensor's key in this file.
        bias: the bias tensor's key in this file, if it has one.
        kind: what the module computes.
        shape: of the weight (of the slice, if there is one): ``(out, in)``, ``(out, in, kh, kw)`` or ``(features,)``.
        rows: the half-open range of rows of a fused weight that this module is, else None.
        fused: canonical name of the fused module that this one is a slice of (the same for q, k, v and the output
            projection that belongs to them, which hosts only load together), else None.
        position: where it sits.
        names: every module name an adapter can use for it (``lora_unet_...``), all families.
        output_name: the one of ``names`` that both hosts load, else None: such a module's update cannot be written.
    """

    name: str
    weight: str
    bias: str | None
    kind: Kind
    shape: tuple[int, ...]
    rows: tuple[int, int] | None
    fused: str | None
    position: Position
    names: tuple[str, ...]
    output_name: str | None

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """``(out, in)`` of the weight as a matrix; a convolution is flattened to ``(out, in*kh*kw)``."""
        return self.shape[0], math.prod(self.shape[1:])
