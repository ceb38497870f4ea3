"""The result of a verification as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lib_transfer.evaluation.record import Curves
from lib_transfer.evaluation.thresholds import FAR
from lib_transfer.webui.shell.html import render
from lib_transfer.webui.verify.kept import Verified

WIDTH, TOP, BOTTOM = 320.0, 16.0, 80.0
"""The curve's width, and the heights of its largest and smallest values, in the units of its picture."""

AVERAGED = 8
"""How many steps a point of the loss is the mean of: single steps jump."""


def verdicts(verified: Sequence[Verified], table: str = "transfer_lora_verdicts") -> Markup | str:
    """The first verification: the LoRAs one below the other, each with its gain and its verdict. The others folded.

    Args:
        verified: the verifications, the last one first.
        table: the table's id in the page.
    """
    return render("verdicts", verified=verified, id=table, curve=curve, far=FAR) if verified else ""


def curve(training: Curves) -> Markup | str:
    """The loss of a training over its steps, and the gain on held-out pictures along it; "" where there is nothing to draw."""
    steps = len(training.losses)
    if steps < 2:
        return ""
    means = [_mean(training.losses[max(step + 1 - AVERAGED, 0) : step + 1]) for step in range(steps)]
    highest = max(1.0, *(gain for _, gain in training.gains))
    losses = [(_across(step + 1, steps), _up(mean / max(*means, 1e-30))) for step, mean in enumerate(means)]
    gains = [(_across(step, steps), _up(gain / highest), f"{gain:.2f}") for step, gain in training.gains]
    told = f"{steps} steps of training: the loss went from {means[0]:.3g} to {means[-1]:.3g}"
    if gains:
        told += f"; the gain on held-out pictures was {', '.join(gain for *_, gain in gains)}"
    return render("curve", losses=losses, gains=gains, told=f"{told}.")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _across(step: int, steps: int) -> float:
    return round(WIDTH * step / steps, 1)


def _up(share: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * min(max(share, 0.0), 1.0), 1)
