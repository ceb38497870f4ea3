"""Movement match: whether the target moves under a transferred adapter as the source does under the original; which is kept.

    explained = 1 - |dV_t - dV_s|^2 / |dV_s|^2,   dV = prediction with the adapter - prediction without

on the same noised latents, times and prompts, all predictions being of the noise. 1: the same movement; 0: no better than no
adapter; below: it moves elsewhere. The best adapter is kept if it is clearly better than reuse, on inputs that nothing was fitted
to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lib_transfer.models.apply import Strength, applied, whole
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, predict
from lib_transfer.progress import Progress, check
from lib_transfer.update import Updates

Verdict = Literal["reproduces", "partly", "does not transfer"]

REPRODUCES = 0.6
TRANSFERS = 0.3
"""From this match on an adapter is said to transfer in part; below it, not at all."""

TOO_FAR = 1.0
"""A distance of the bases from which on a match says nothing: they differ by more than the adapter moves the source."""

MARGIN, SHARE = 0.1, 0.2
"""The gain in match over reuse, on held-out inputs, that a fitted adapter is kept for: the larger of this number, and of this
share of the bases' distance.

The share is from the quality benchmark, three styles and two seeds: on six of six mild fine-tunes (distance .42 to .78) a gain
of .04 to .11 in match went with a worse adapter, on six of six pruned relatives (.11 to .21) a gain of .11 to .34 with a better.
"""


@dataclass(frozen=True)
class Match:
    """How well movements agree.

    Attributes:
        explained: the share of the source's movement that is explained, over all inputs together.
        each: the same for every input by itself.
    """

    explained: float
    each: tuple[float, ...]

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest over the inputs."""
        return min(self.each), max(self.each)

    @property
    def verdict(self) -> Verdict:
        """The match in words."""
        if self.explained >= REPRODUCES:
            return "reproduces"
        return "partly" if self.explained >= TRANSFERS else "does not transfer"

    @property
    def text(self) -> str:
        """The match as a sentence for a person."""
        low, high = self.spread
        words = {
            "reproduces": "The target moves as the source does",
            "partly": "The target moves in part as the source does",
            "does not transfer": "The target does not move as the source does: it does not transfer",
        }[self.verdict]
        return f"{words} (movement match {self.explained:.2f}; {low:.2f} to {high:.2f} over {len(self.each)} inputs)."


def match(moved: Tensor, wanted: Tensor) -> Match:
    """Movement match of ``moved`` with ``wanted``, both ``(n, channels, height, width)``."""
    lost = (moved.double() - wanted.double()).square().flatten(1).sum(1)
    given = wanted.double().square().flatten(1).sum(1)
    each = tuple(_explained(float(lost_one), float(of)) for lost_one, of in zip(lost, given, strict=True))
    return Match(_explained(float(lost.sum()), float(given.sum())), each)


def distance_of(here: Tensor, there: Tensor, wanted: Tensor) -> float:
    """How far two bases are from each other without an adapter, in squares of the source's movement.

        |V_t - V_s|^2 / |dV_s|^2

    Args:
        here, there: what the two predict of the same inputs, less the noise that is in them.
        wanted: the movement of the source.
    """
    given = float(wanted.double().square().sum())
    between = float((here.double() - there.double()).square().sum())
    return between / given if given else float("inf") if between else 0.0


def _explained(lost: float, given: float) -> float:
    """The share of ``given`` that is explained; where the source does not move, all of it if the target does not either."""
    if given == 0:
        return 1.0 if lost == 0 else -float("inf")
    return 1 - lost / given


def predictions(
    model: Model,
    inputs: Inputs,
    progress: Progress,
    what: str,
    updates: Updates | None = None,
    strength: Strength = whole,
) -> Tensor:
    """What ``model`` says of every input, with an adapter on it if given; one run for each of them.

    Args:
        model: the model; it runs ``len(inputs)`` times.
        inputs: the inputs, which are run one after the other.
        progress: asked before every run whether to stop; it gets a step after it.
        what: a few words on what the runs are for.
        updates: the adapter.
        strength: the factor on each of its updates.
    """
    said = []
    with applied(model.places, updates or {}, strength):
        for one in inputs:
            check(progress)
            said.append(predict(model, one))
            progress.step(what)
    return torch.cat(said)


@dataclass(frozen=True)
class Choice:
    """What was decided.

    Attributes:
        name: the name of the adapter to keep; None where none of them transfers.
        reason: why, in a sentence.
    """

    name: str | None
    reason: str


def choose(matches: Mapping[str, Match], reuse: str | None, distance: float = 0.0) -> Choice:
    """The adapter to keep.

    Args:
        matches: the matches on held-out inputs, by name.
        reuse: the name of the one that is the original as it is; None where the shapes do not allow it.
        distance: the distance of the bases from each other; see :func:`distance_of`.
    """
    if distance > TOO_FAR:
        return _unjudged(reuse, distance)
    best = max(matches, key=lambda name: matches[name].explained)
    reached = matches[best].explained
    if reached < TRANSFERS:
        return Choice(
            None, f"None transfers: the best, {best}, has a movement match of {reached:.2f}, below {TRANSFERS:g}."
        )
    if reuse is None:
        return Choice(best, f"{best} has the best movement match, {reached:.2f}; reuse is not possible.")
    return _against_reuse(best, reached, reuse, matches[reuse].explained, max(MARGIN, SHARE * distance))


def _unjudged(reuse: str | None, distance: float) -> Choice:
    why = (
        f"The two checkpoints differ here {distance**0.5:.1f} times as much as the LoRA moves its own, so that a match "
        "says little of what it does to the target's own pictures."
    )
    if reuse is None:
        return Choice(None, f"{why} Nothing is recommended.")
    return Choice(reuse, f"{why} Reuse is kept, unjudged: look at pictures.")


def _against_reuse(best: str, reached: float, reuse: str, reused: float, margin: float) -> Choice:
    """The choice between the best one, which transfers, and reuse."""
    if best == reuse:
        return Choice(reuse, f"Reuse has the best movement match, {reused:.2f}.")
    if reached > reused + margin:
        return Choice(best, f"{best} has a movement match of {reached:.2f}; reuse has {reused:.2f}.")
    if reused < TRANSFERS:
        return Choice(
            None,
            f"None transfers: {best} has a movement match of {reached:.2f}, not clearly better than reuse "
            f"({reused:.2f}), which does not transfer.",
        )
    return Choice(
        reuse, f"Reuse is kept ({reused:.2f}): {best} ({reached:.2f}) is not better by more than {margin:.2g}."
    )
