"""Movement match: whether the target moves under a transferred adapter as the source moves under the original.

    explained = 1 - |dV_t - dV_s|^2 / |dV_s|^2,   dV = prediction with the adapter - prediction without

on the same noised latents, times and prompts, all predictions being of the noise. 1: the same movement; 0: no better than no
adapter; below: it moves elsewhere.
"""

from __future__ import annotations

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
    """An adapter that moves nothing is reproduced by what moves nothing."""
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
        progress: asked before every run whether to stop, and told after it.
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
