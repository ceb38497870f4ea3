"""The gain of an adapter on the target, as a share of what the original gains on its own checkpoint.

    G(A) = [ L(e_t; y) - L(e_t^A; y) ] / [ L(e_s; y) - L(e_sL; y) ]

on pictures ``y`` that the source made with its LoRA and that nothing was trained on. 1: the target knows these pictures better
by as much as the source does with the LoRA; 0: no better than without an adapter. Beside it the damage: how far the target's
predictions move where the LoRA is not asked for.

    damage(A) = |e_t^A - e_t|^2 / |e_sL - e_s|^2

on the target's own pictures ``x_t`` without the trigger words, against the source's movement on ``y``.

An adapter that turns the target into the source gains on ``y`` too, since ``y`` has the source's look. How far it does so shows
on the pictures that both checkpoints make without the LoRA, ``x_s`` and ``x_t``: it learns the look of the one and forgets that
of the other, which costs as much on the target's own pictures in the style.

    look(A) = { [ L(e_t; x_s) - L(e_t^A; x_s) ] + [ L(e_t^A; x_t) - L(e_t; x_t) ] } / [ L(e_s; y) - L(e_sL; y) ]

What an adapter does to both alike, as every LoRA does that is not quite silent without its trigger words, is no part of this. So
an adapter is ahead of reuse R by

    lead(A) = [ G(A) - look(A) ] - [ G(R) - look(R) ].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lib_transfer.evaluation.thresholds import REPRODUCES, TRANSFERS

Verdict = Literal["reproduces", "partly", "does not transfer"]


@dataclass(frozen=True)
class Lead:
    """How far an adapter is ahead of reuse.

    Attributes:
        value: in the unit of the gain, without what it owes to the source's look.
        error: the standard error of it over the inputs.
    """

    value: float
    error: float

    @property
    def certain(self) -> bool:
        """Whether it is ahead by more than the standard error."""
        return self.value > self.error


@dataclass(frozen=True, eq=False)
class Effect:
    """What an adapter does to the losses of the target, each as a share of what the original gains on its own checkpoint.

    Attributes:
        gains: the improvement on every held-out input ``(n,)``.
        looks: the improvement on every input that the source made without the LoRA, less that on the target's own ``(m,)``.
        damage: see :func:`damage`.
    """

    gains: Tensor
    looks: Tensor
    damage: float


@dataclass(frozen=True)
class Gain:
    """What an adapter is worth.

    Attributes:
        share: the gain as a share of the original's own.
        error: the standard error of it over the held-out inputs; 0 where there is one input.
        damage: how far it moves the target without the trigger words, in squares of the source's movement; None where that
            was not measured.
        look: how far it moves the target from its own look to the source's, in the unit of the gain; None where that was not
            measured.
        lead: how far it is ahead of reuse; None for reuse itself, and where reuse is impossible.
    """

    share: float
    error: float = 0.0
    damage: float | None = None
    look: float | None = None
    lead: Lead | None = None

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


def shares(before: Tensor, after: Tensor, learned: float) -> Tensor:
    """By how much every input is known better, as a share of what the original gains on its own checkpoint ``(n,)``.

    Args:
        before, after: losses ``(n,)``.
        learned: ``L(e_s; y) - L(e_sL; y)``; where that is not above 0, there is nothing that could be reproduced.
    """
    return (before - after) / learned if learned > 0 else torch.full_like(before, -math.inf)


def gain(effect: Effect, reuse: Effect | None = None) -> Gain:
    """What an adapter is worth.

    Args:
        effect: the effect of the adapter.
        reuse: the effect of reuse; None for reuse itself, and where it is impossible.
    """
    ahead = None if reuse is None else lead(effect, reuse)
    return Gain(mean(effect.gains), standard_error(effect.gains), effect.damage, mean(effect.looks), ahead)


def lead(effect: Effect, reuse: Effect) -> Lead:
    """How far an adapter is ahead of reuse; both were asked about the same inputs, so their errors are those of differences."""
    gains, looks = effect.gains - reuse.gains, effect.looks - reuse.looks
    return Lead(mean(gains) - mean(looks), math.hypot(standard_error(gains), standard_error(looks)))


def mean(each: Tensor) -> float:
    """The mean."""
    return float(each.mean())


def standard_error(each: Tensor) -> float:
    """The standard error of the mean of ``(n,)``; 0 where there is one, or where they are not finite."""
    return float(each.std() / math.sqrt(len(each))) if len(each) > 1 and bool(each.isfinite().all()) else 0.0


def damage(with_it: Tensor, without: Tensor, movement: float) -> float:
    """How far an adapter moves the target where it is not asked for, as a share of the source's movement.

    Args:
        with_it, without: the target's predictions ``(n, channels, height, width)`` for its own pictures without trigger words.
        movement: the mean square of the source's movement ``e_sL - e_s`` on its pictures with the LoRA.
    """
    moved = float((with_it.double() - without.double()).square().mean())
    return moved / movement if movement else math.inf if moved else 0.0
