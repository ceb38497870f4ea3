"""Which adapter is kept: another one than reuse where it is ahead by more than the source's look."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lib_transfer.evaluation.gain import Gain
from lib_transfer.evaluation.thresholds import FAR, MEASURABLE, TRANSFERS

REUSE = "reuse"
"""The name of the original as it is, on the target."""

IMITATION = "imitate"
"""The name of the adapter that is trained on the target."""


@dataclass(frozen=True)
class Choice:
    """What was decided.

    Attributes:
        name: the name of the adapter to keep; None where none of them transfers.
        reason: why, in a sentence.
        judged: whether gains say how good it is; they do not where the domain gap is large.
    """

    name: str | None
    reason: str
    judged: bool = True


def choose(gains: Mapping[str, Gain], gap: float) -> Choice:
    """The adapter to keep.

    Args:
        gains: the gain of every adapter on held-out pictures, by name; at least one.
        gap: the domain gap; infinite where the original gains nothing on its own checkpoint.
    """
    reuse = gains.get(REUSE)
    if gap > FAR:
        return _unjudged(gains, gap)
    kept = max(gains, key=lambda name: _ahead(gains[name])) if reuse is not None else max(gains, key=_share_in(gains))
    best, share = max(gains, key=_share_in(gains)), gains[kept].share
    if share < TRANSFERS:
        return Choice(None, f"None transfers: the best, {best}, has a gain of {gains[best].share:.2f}.")
    if reuse is None:
        return Choice(kept, f"{kept} has the best gain, {share:.2f}; reuse is not possible.")
    if kept != REUSE:
        return Choice(kept, f"{kept} has a gain of {share:.2f}; reuse has {reuse.share:.2f}.")
    if best == REUSE:
        return Choice(REUSE, f"Reuse has the best gain, {share:.2f}.")
    of_best = f"{best} ({gains[best].share:.2f})"
    more = "is not surely ahead once the look of the source's pictures is taken off"
    return Choice(REUSE, f"Reuse is kept ({share:.2f}): {of_best} {more}.")


def may_win(gains: Mapping[str, Gain]) -> bool:
    """Whether an imitation could be kept at all: reuse leaves more than the gain can tell."""
    return REUSE not in gains or 1 - gains[REUSE].share > MEASURABLE


def _ahead(one: Gain) -> float:
    """How far an adapter is ahead of reuse, where that is certain; 0 for reuse itself, and less for what is not ahead."""
    if one.lead is None:
        return 0.0
    return one.lead.value if one.lead.certain else -math.inf


def _share_in(gains: Mapping[str, Gain]) -> Callable[[str], float]:
    return lambda name: gains[name].share


def _unjudged(gains: Mapping[str, Gain], gap: float) -> Choice:
    """The choice where a gain on the source's pictures says nothing of the target's own."""
    why = f"The checkpoints draw different pictures (domain gap {gap:.1f})"
    if gap == float("inf"):
        why = "With these prompts the LoRA gains nothing on its own checkpoint, so nothing can be told; name its trigger words"
    if REUSE in gains:
        told = "reuse keeps the target's look; nothing better is known. Compare pictures."
        return Choice(REUSE, f"{why}; {told}", judged=False)
    if IMITATION in gains:
        price = (
            "reuse is not possible. What is trained brings the look of the source's pictures along. Compare pictures."
        )
        return Choice(IMITATION, f"{why}; {price}", judged=False)
    return Choice(None, f"{why}; reuse is not possible, and nothing is recommended.", judged=False)
