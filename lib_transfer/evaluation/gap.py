"""The domain gap: whether two checkpoints make the same pictures, in units of what the LoRA changes.

    gap = max( L(e_s; x_t) - L(e_t; x_t),  L(e_t; x_s) - L(e_s; x_s) ) / ( L(e_s; y) - L(e_sL; y) )

with ``x_t`` the target's own pictures, ``x_s`` the source's own, ``y`` those that the source makes with its LoRA, and ``L`` the
denoising loss (:mod:`~lib_transfer.evaluation.losses`), each taken in the model's own latents of the same pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ExcessLoss:
    """How much worse each checkpoint knows the other's pictures than the other does, in denoising loss.

    Attributes:
        source: the loss of the source on the target's pictures beyond the target's own, ``L(e_s; x_t) - L(e_t; x_t)``.
        target: that of the target on the source's pictures, ``L(e_t; x_s) - L(e_s; x_s)``; None if it is not known yet.
    """

    source: float
    target: float | None = None


def excess_loss(other: float, own: float) -> float:
    """``L(e; x) - L(e'; x)``: by how much a model knows pictures ``x`` worse than the model ``e'`` that made them."""
    return other - own


def domain_gap(between: ExcessLoss, learned: float) -> float:
    """The domain gap, never below 0; infinite where the LoRA gained nothing on its own checkpoint.

    Args:
        between: how much worse each checkpoint knows the other's pictures.
        learned: what the LoRA gains on its own checkpoint, ``L(e_s; y) - L(e_sL; y)``.
    """
    widest = max(between.source, between.source if between.target is None else between.target, 0.0)
    return widest / learned if learned > 0 else math.inf
