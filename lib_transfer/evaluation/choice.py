"""Which adapter is kept, and why: the best on inputs that nothing was fitted to, if it is clearly better than reuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lib_transfer.evaluation.movement import TRANSFERS, Match

TOO_FAR = 1.0
"""A distance of the bases from which on a match says nothing: they differ by more than the adapter moves the source."""

MARGIN, SHARE = 0.1, 0.2
"""The gain in match over reuse, on held-out inputs, that a fitted adapter is kept for: the larger of this number, and of this
share of the bases' distance.

The share is from the quality benchmark, three styles and two seeds: on six of six mild fine-tunes (distance .42 to .78) a gain
of .04 to .11 in match went with a worse adapter, on six of six pruned relatives (.11 to .21) a gain of .11 to .34 with a better.
"""


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
