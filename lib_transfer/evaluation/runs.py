"""How often the models are run, which is said before they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lib_transfer.evaluation.improvements import improvements, possible
from lib_transfer.evaluation.improvements.improvement import Improvement, Scale
from lib_transfer.formatting import duration
from lib_transfer.models.sampling import STEPS
from lib_transfer.models.sampling import runs as sampling_runs

MOST_GROUPS, MOST_BLOCKS = 15, 70
"""SDXL's, which has most: groups of modules that an adapter changes, and transformer blocks."""


@dataclass(frozen=True)
class Runs:
    """A number of runs.

    Attributes:
        sampling: the runs that make the inputs.
        others: all other runs.
    """

    sampling: int
    others: int

    @property
    def all(self) -> int:
        """All runs."""
        return self.sampling + self.others

    def text(self, seconds_per_run: float | None = None) -> str:
        """A sentence for a person, with the time where that of a run is known."""
        said = f"{self.others} runs of the models and {self.sampling} for sampling the inputs"
        if seconds_per_run is None:
            return f"{said}; a time estimate follows after the first run."
        return f"{said}, about {duration(self.all * seconds_per_run)}."


def planned(inputs: int, steps: int, candidates: int, chosen: Sequence[Improvement], scale: Scale) -> Runs:
    """How often the models are run, at most.

    Args:
        inputs: the number of inputs that matches are taken on.
        steps: the steps of the sampling of each input.
        candidates: the number of adapters that are compared, without those that the improvements make.
        chosen: the improvements that are tried.
        scale: what their numbers of runs depend on.
    """
    every = inputs + (scale.inputs if chosen else 0)
    # On every input the source runs without and with the original, and the target without an adapter.
    compared = 3 * every + inputs * (candidates + len(chosen))
    return Runs(sampling_runs(every, steps), compared + sum(each.cost(scale) for each in chosen))


def expected_runs(inputs: int, transferred: int = 1, *, improve: bool = False) -> Runs:
    """How often the models are run, at most, before anything is known of the adapters and the checkpoints.

    Args:
        inputs: the number of inputs that matches are taken on.
        transferred: the number of transferred adapters; reuse is compared with them.
        improve: whether better adapters are looked for too; it is then what that takes at most, on SDXL.
    """
    chosen = possible(improvements(), given=True, blocks=MOST_BLOCKS) if improve else ()
    return planned(inputs, STEPS, transferred + 1, chosen, Scale(inputs, MOST_GROUPS, MOST_BLOCKS))


def expected_cost(
    inputs: int, transferred: int = 1, seconds_per_run: float | None = None, *, improve: bool = False
) -> str:
    """What an evaluation takes, in words, before anything is known of the adapters and the checkpoints.

    Args:
        inputs: the number of inputs that matches are taken on.
        transferred: the number of transferred adapters; reuse is compared with them.
        seconds_per_run: the time of a run, where it is known.
        improve: whether better adapters are looked for too; what is said is then what it takes at most, on SDXL.
    """
    runs = expected_runs(inputs, transferred, improve=improve)
    return ("At most " if improve else "") + runs.text(seconds_per_run)
