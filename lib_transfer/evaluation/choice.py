"""Which adapter is kept: another one than reuse where it gains more than a share of the domain gap can cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lib_transfer.evaluation.gain import Gain
from lib_transfer.evaluation.thresholds import FAR, MEASURABLE, SHARE, TRANSFERS

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


def choose(gains: Mapping[str, Gain], gap: float, reuse: str | None = REUSE) -> Choice:
    """The adapter to keep.

    Args:
        gains: the gain of every adapter on held-out pictures, by name; at least one.
        gap: the domain gap; infinite where the original gains nothing on its own checkpoint.
        reuse: the name of the one that is the original as it is. It need not be among them.
    """
    reused = gains.get(reuse) if reuse is not None else None
    if gap > FAR:
        return _unjudged(gains, gap, reuse if reused is not None else None)
    best = max(gains, key=lambda name: gains[name].share)
    kept = best
    if reuse is not None and reused is not None and best != reuse and not wins(gains[best], reused, gap):
        kept = reuse
    share = gains[kept].share
    if share < TRANSFERS:
        return Choice(None, f"None transfers: the best, {best}, has a gain of {gains[best].share:.2f}.")
    if reused is None or reuse is None:
        return Choice(kept, f"{kept} has the best gain, {share:.2f}; reuse is not possible.")
    if best == reuse:
        return Choice(reuse, f"Reuse has the best gain, {share:.2f}.")
    of_best = f"{gains[best].share:.2f}"
    if kept == reuse:
        more = f"{SHARE * gap:.2g}, the share of the domain gap that it may cost"
        return Choice(reuse, f"Reuse is kept ({share:.2f}): {best} ({of_best}) does not gain more by {more}.")
    return Choice(best, f"{best} has a gain of {of_best}; reuse has {reused.share:.2f}.")


def may_win(gains: Mapping[str, Gain], gap: float) -> bool:
    """Whether an imitation could be kept at all: reuse leaves more than the share of the gap that it would have to win."""
    reused = gains.get(REUSE)
    return reused is None or 1 - reused.share > max(SHARE * gap, MEASURABLE)


def wins(one: Gain, reuse: Gain, gap: float) -> bool:
    """Whether an adapter gains more over reuse than it may cost: :data:`.SHARE` of the domain gap."""
    return one.share - reuse.share > SHARE * max(gap, 0.0)


def _unjudged(gains: Mapping[str, Gain], gap: float, reuse: str | None) -> Choice:
    """The choice where a gain on the source's pictures says nothing of the target's own."""
    why = f"The checkpoints draw different pictures (domain gap {gap:.1f})"
    if gap == float("inf"):
        why = "With these prompts the LoRA gains nothing on its own checkpoint, so nothing can be told; name its trigger words"
    if reuse is not None:
        told = "reuse keeps the target's look; nothing better is known. Compare pictures."
        return Choice(reuse, f"{why}; {told}", judged=False)
    if IMITATION in gains:
        price = (
            "reuse is not possible. What is trained brings the look of the source's pictures along. Compare pictures."
        )
        return Choice(IMITATION, f"{why}; {price}", judged=False)
    return Choice(None, f"{why}; reuse is not possible, and nothing is recommended.", judged=False)
