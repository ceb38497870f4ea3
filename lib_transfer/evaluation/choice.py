"""Which adapter is kept, and why: the best on inputs that nothing was fitted to, if it is clearly better than plain reuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lib_transfer.evaluation.movement import TRANSFERS, Match

TOO_FAR = 1.0
"""A distance of the bases from which on a match says nothing: they differ by more than the adapter moves the source."""

MARGIN, SHARE = 0.1, 0.2
"""By how much a fitted adapter has to be better than plain reuse on held-out inputs: so much, and this share of the distance.

The share is by the quality benchmark, three styles and two seeds: six of six mild fine-tunes (distance .42 to .78) lost by what
gained .04 to .11 in match, and six of six pruned relatives (.11 to .21) won by what gained .11 to .34.
"""


@dataclass(frozen=True)
class Choice:
    """What was decided.

    Attributes:
        name: of the adapter that is kept; None where none of them transfers.
        reason: a sentence.
    """

    name: str | None
    reason: str


def choose(matches: Mapping[str, Match], reuse: str | None, distance: float = 0.0) -> Choice:
    """The adapter to keep.

    Args:
        matches: on held-out inputs, by name.
        reuse: which of them is plain reuse; None where the shapes do not allow it.
        distance: of the bases from each other, see :func:`apart`.
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
        return Choice(best, f"{best} has the best movement match, {reached:.2f}; plain reuse is not possible.")
    return _beside(best, reached, reuse, matches[reuse].explained, max(MARGIN, SHARE * distance))


def _unjudged(reuse: str | None, distance: float) -> Choice:
    why = (
        f"The two checkpoints differ here {distance**0.5:.1f} times as much as the LoRA moves its own, so that a match "
        "says little of what it does to the target's own pictures."
    )
    if reuse is None:
        return Choice(None, f"{why} Nothing is recommended.")
    return Choice(reuse, f"{why} Plain reuse is kept, unjudged: look at pictures.")


def _beside(best: str, reached: float, reuse: str, reused: float, margin: float) -> Choice:
    """The best one, which transfers, beside plain reuse."""
    if best == reuse:
        return Choice(reuse, f"Plain reuse has the best movement match, {reused:.2f}.")
    if reached > reused + margin:
        return Choice(best, f"{best} has a movement match of {reached:.2f}; plain reuse has {reused:.2f}.")
    if reused < TRANSFERS:
        return Choice(
            None,
            f"None transfers: {best} has a movement match of {reached:.2f}, not clearly better than plain reuse "
            f"({reused:.2f}), which does not transfer.",
        )
    return Choice(reuse, f"Plain reuse ({reused:.2f}): {best} ({reached:.2f}) is not better by more than {margin:.2g}.")
