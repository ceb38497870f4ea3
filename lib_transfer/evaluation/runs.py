"""How often the models are run, which is said before they are.

A run is one forward run of one model for one input; one with gradients counts as three.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_transfer.evaluation.imitation import COST, looks
from lib_transfer.formatting import duration
from lib_transfer.models.sampling import STEPS
from lib_transfer.models.sampling import runs as sampling_runs

BUDGET = 5000
"""The most runs that an evaluation takes with an imitation, unless more or fewer are asked for."""

MOST_STEPS = 400
"""The most steps of a training, however much the budget allows: more gain nothing any more."""


@dataclass(frozen=True)
class Amounts:
    """How much of everything is made.

    Attributes:
        held: the pictures, made by the source with the LoRA, that gains are taken on.
        held_draws: how many times and noises each of them gets.
        own: the pictures that each checkpoint makes without the LoRA, for the domain gap.
        own_draws: how many times and noises each of them gets.
        taught: the pictures, made by the source with the LoRA, that an imitation is trained on.
        plain: how many of those are made without the trigger words: they keep what the LoRA leaves alone.
        batch: the inputs of each step of the training.
        sampling: the sampling steps of each picture.
        budget: the most runs with an imitation; the steps of its training follow.
    """

    held: int = 8
    held_draws: int = 2
    own: int = 4
    own_draws: int = 4
    taught: int = 24
    plain: int = 6
    batch: int = 8
    sampling: int = STEPS
    budget: int = BUDGET


@dataclass(frozen=True)
class Runs:
    """The runs of an evaluation by what they are for.

    Attributes:
        target_own, source_own: what each checkpoint makes without the LoRA, and what it says of it.
        source_sees: what the source says of the target's pictures.
        held: the held-out pictures, and what the source says of them without and with the LoRA.
        taught: the pictures that are trained on.
        teacher: what the source predicts for the training; 0 in another latent space, where it means nothing.
        target_sees: what the target says of the source's pictures and of the held-out ones without an adapter.
        candidates: the same with each adapter, and what it says of its own pictures.
        steps: the steps of the training; 0 for none.
        training: the training itself, and what is looked at meanwhile.
    """

    target_own: int
    source_own: int
    source_sees: int
    held: int
    taught: int
    teacher: int
    target_sees: int
    candidates: int
    steps: int
    training: int

    @property
    def all(self) -> int:
        """All runs."""
        return (
            self.target_own + self.source_own + self.source_sees + self.held + self.taught + self.teacher
            + self.target_sees + self.candidates + self.training
        )  # fmt: skip

    def text(self, seconds_per_run: float | None = None) -> str:
        """A sentence for a person, with the time where that of a run is known."""
        said = f"{self.all} runs of the models"
        if self.steps:
            said += f" ({self.training + self.teacher} of them for a training of {self.steps} steps)"
        if seconds_per_run is None:
            return f"{said}; a time estimate follows after the first run."
        return f"{said}, about {duration(self.all * seconds_per_run)}."


def planned(amounts: Amounts, candidates: int, *, imitating: bool, one_space: bool = True) -> Runs:
    """How often the models are run, at most.

    Args:
        amounts: how much of everything is made.
        candidates: the number of adapters that are compared, without the imitation.
        imitating: whether an imitation is made.
        one_space: whether both checkpoints have the same latents.
    """
    probes_own, probes_held = amounts.own * amounts.own_draws, amounts.held * amounts.held_draws
    own = sampling_runs(amounts.own, amounts.sampling) + probes_own
    held = sampling_runs(amounts.held, amounts.sampling) + 2 * probes_held
    judged = (candidates + imitating) * (probes_held + 2 * probes_own)
    taught = sampling_runs(amounts.taught, amounts.sampling) if imitating else 0
    seen = probes_own + probes_held
    without = Runs(own, own, probes_own, held, taught, 0, seen, judged, 0, 0)
    if not imitating:
        return without
    looked = len(looks(MOST_STEPS)) * probes_held
    each = amounts.batch * (COST + one_space)
    steps = min(MOST_STEPS, max(0, (amounts.budget - without.all - looked) // each))
    teacher = steps * amounts.batch * one_space
    training = steps * amounts.batch * COST + len(looks(steps)) * probes_held
    return Runs(own, own, probes_own, held, taught, teacher, seen, judged, steps, training)


def expected_runs(held: int, transferred: int = 1, *, imitating: bool = False, budget: int = BUDGET) -> Runs:
    """How often the models are run, at most, before anything is known of the adapters and the checkpoints.

    Args:
        held: the number of held-out pictures.
        transferred: the number of transferred adapters; reuse is compared with them.
        imitating: whether an imitation is made too.
        budget: see :class:`Amounts`.
    """
    return planned(Amounts(held=held, budget=budget), transferred + 1, imitating=imitating)


def expected_cost(
    held: int,
    transferred: int = 1,
    seconds_per_run: float | None = None,
    *,
    imitating: bool = False,
    budget: int = BUDGET,
) -> str:
    """What :func:`expected_runs` gives, in words; what is in the cache already takes no runs.

    Args:
        seconds_per_run: the time of a run, where it is known.
    """
    return "At most " + expected_runs(held, transferred, imitating=imitating, budget=budget).text(seconds_per_run)
