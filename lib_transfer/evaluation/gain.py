"""The gain of an adapter on the target, as a share of what the original gains on its own checkpoint.

    G(A) = [ L(e_t; y) - L(e_t^A; y) ] / [ L(e_s; y) - L(e_sL; y) ]

on pictures ``y`` that the source made with its LoRA and that nothing was trained on. 1: the target knows these pictures better
by as much as the source does with the LoRA; 0: no better than without an adapter. Beside it the damage: how far the target's
predictions move where the LoRA is not asked for.

    damage(A) = |e_t^A - e_t|^2 / |e_sL - e_s|^2

on the target's own pictures without the trigger words, against the source's movement on ``y``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lib_transfer.evaluation.thresholds import REPRODUCES, TRANSFERS

Verdict = Literal["reproduces", "partly", "does not transfer"]


@dataclass(frozen=True)
class Gain:
    """What an adapter is worth.

    Attributes:
        share: the gain as a share of the original's own.
        error: the standard error of it over the held-out inputs; 0 where there is one input.
        damage: how far it moves the target without the trigger words, in squares of the source's movement; None where that
            was not measured.
    """

    share: float
    error: float = 0.0
    damage: float | None = None

    @property
    def verdict(self) -> Verdict:
        """The gain in words."""
        if self.share >= REPRODUCES:
            return "reproduces"
        return "partly" if self.share >= TRANSFERS else "does not transfer"

    @property
    def text(self) -> str:
        """The gain as a sentence for a person."""
        words = {
            "reproduces": "The target gains what the source does",
            "partly": "The target gains a part of what the source does",
            "does not transfer": "The target does not gain what the source does: it does not transfer",
        }[self.verdict]
        return f"{words} ({self.numbers})."

    @property
    def bare(self) -> str:
        """The numbers as a sentence, where nothing can be read from them."""
        return f"Cannot be judged ({self.numbers})."

    @property
    def numbers(self) -> str:
        """The gain with its standard error, and the damage."""
        damage = "" if self.damage is None else f"; {self.damage:.2f} of the movement without the trigger words"
        return f"gain {self.share:.2f} ± {self.error:.2f}{damage}"


def gain(without: Tensor, with_it: Tensor, learned: float) -> Gain:
    """The gain of an adapter.

    Args:
        without, with_it: the target's losses on held-out inputs ``(n,)`` without and with the adapter.
        learned: what the original gains on its own checkpoint, ``L(e_s; y) - L(e_sL; y)``; where that is not above 0, there is
            nothing that could be reproduced.
    """
    if learned <= 0:
        return Gain(-math.inf)
    each = (without - with_it) / learned
    error = float(each.std() / math.sqrt(len(each))) if len(each) > 1 else 0.0
    return Gain(float(each.mean()), error)


def damage(with_it: Tensor, without: Tensor, movement: float) -> float:
    """How far an adapter moves the target where it is not asked for, as a share of the source's movement.

    Args:
        with_it, without: the target's predictions ``(n, channels, height, width)`` for its own pictures without trigger words.
        movement: the mean square of the source's movement ``e_sL - e_s`` on its pictures with the LoRA.
    """
    moved = float((with_it.double() - without.double()).square().mean())
    return moved / movement if movement else math.inf if moved else 0.0
