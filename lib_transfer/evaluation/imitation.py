"""Imitation: train a LoRA's factors on the target until it predicts what the source with its LoRA predicts.

    minimise  mean |e_t^A(x_tau, p) - e_sL(x_tau, p)|^2      over the factors of A

on noised pictures ``x`` that the source made with its LoRA, ``tau`` uniform, by Adam with a cosine (a student learns from a
teacher's outputs, Hinton et al. 2015). In another latent space the source's predictions mean nothing; there the wanted prediction
is the noise itself, which is ordinary training on the same pictures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.evaluation.kept import Kept
from lib_transfer.evaluation.student import Student
from lib_transfer.evaluation.teacher import Batches, taught
from lib_transfer.linalg.factors import Factors
from lib_transfer.models.apply import applied
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, predict
from lib_transfer.progress import Progress, check
from lib_transfer.update import Update, Updates

COST = 3
"""How many runs a run with gradients takes as long as, about (Kaplan et al. 2020, table 1: the backward pass takes two)."""

RATE = 0.12
"""The learning rate of ``up`` from zero, as a share of the size that the LoRA's own has: adapters come in all sizes."""

RATE_DOWN = 0.6
"""The learning rate of ``down`` from zero, times its number of columns: its effect grows with them (LoRA+, Hayou et al. 2024)."""

FROM_REUSE = 0.5
"""The factor on both for modules that begin with reuse, where less is to be learned."""

LOSS_SCALE = 1024.0
"""The factor on the loss before its gradients are taken, so that half precision does not round them to zero."""

MAX_GRAD_NORM = 1.0
"""The norm that a step's gradient is clipped to."""

BETAS, EPSILON = (0.9, 0.99), 1e-8

SAVE_EVERY = 8
"""After how many steps the state of the training is kept."""

LOOKS = 4
"""In how many parts the gain on held-out pictures divides the training: it is looked at between them."""


@dataclass
class State:
    """Where a training is; everything that its rest depends on.

    Attributes:
        step: the steps that are done.
        values: ``up`` and ``down`` of every module in turn.
        means, squares: Adam's running means of the gradients and of their squares.
        losses: the loss of every step.
        gains: the gain on held-out pictures at each look.
    """

    step: int
    values: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    losses: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)

    @classmethod
    def new(cls, student: Student) -> State:
        """The state before the first step."""
        values = [factor.detach().clone() for factors in student.factors.values() for factor in factors]
        return cls(0, values, [torch.zeros_like(v) for v in values], [torch.zeros_like(v) for v in values])

    def tensors(self) -> dict[str, Tensor]:
        """Everything in it, to be kept."""
        lists = {"value": self.values, "mean": self.means, "square": self.squares}
        made = {f"{kind}.{number}": t for kind, listed in lists.items() for number, t in enumerate(listed)}
        made["step"] = torch.tensor([self.step])
        return made | {
            name: torch.tensor(numbers, dtype=torch.float64)
            for name, numbers in (("losses", self.losses), ("gains", self.gains))
            if numbers
        }

    @classmethod
    def of(cls, kept: Mapping[str, Tensor], student: Student) -> State | None:
        """The state that :meth:`tensors` gave of a training that began as ``student``; None where it began otherwise."""
        number = 2 * len(student.factors)
        shapes = [factor.shape for factors in student.factors.values() for factor in factors]
        if {name: tensor.shape for name, tensor in kept.items() if name.startswith("value.")} != {
            f"value.{place}": shape for place, shape in enumerate(shapes)
        }:
            return None
        values, means, squares = (
            [kept[f"{kind}.{place}"] for place in range(number)] for kind in ("value", "mean", "square")
        )
        losses, gains = (kept[name].tolist() if name in kept else [] for name in ("losses", "gains"))
        return cls(int(kept["step"]), values, means, squares, losses, gains)


@dataclass(frozen=True, eq=False)
class Imitation:
    """What came out.

    Attributes:
        updates: the adapter, by canonical name of the target's module.
        losses: the loss of every step, a mean square of predicted noise.
        gains: the gain on held-out pictures after the steps that :func:`looks` gives; empty where it was not looked at.
    """

    updates: Updates
    losses: tuple[float, ...]
    gains: tuple[float, ...]

    def facts(self) -> dict[str, Any]:
        """The curves for JSON: the losses, and for each gain the steps after which it was reached."""
        steps = len(self.losses)
        after = [*looks(steps), steps][: len(self.gains)]
        return {
            "steps": steps,
            "losses": [float(f"{loss:.4g}") for loss in self.losses],
            "held_out": [[step, float(f"{gain:.4g}")] for step, gain in zip(after, self.gains, strict=True)],
        }


def imitate(
    target: Model,
    student: Student,
    clean: Tensor,
    batches: Batches,
    kept: Kept,
    progress: Progress,
    *,
    teacher: bool = True,
    look: Callable[[Updates], float] | None = None,
) -> Imitation:
    """Train the factors of ``student`` on the target.

    Args:
        target: the model, which must be differentiable; its own weights get no gradients and stay as they are.
        student: the adapter to begin with.
        clean: the latents of all pictures, in the target's space ``(n, channels, height, width)``.
        batches: the steps.
        kept: where the source's predictions are, and where the state of the training is kept; a training that was stopped or
            killed goes on from there.
        progress: asked before every run whether to stop; it gets :data:`COST` steps for each run with gradients.
        teacher: whether the source's predictions are imitated; else the noise is, as in another latent space.
        look: gives the gain of an adapter on held-out pictures; asked after the steps that :func:`looks` gives.

    Raises:
        CancelledError: the person asked to stop.
        NumericError: nothing but NaN or infinity came out of the target.
        StorageError: what the source predicted is not there any more.
    """
    found = kept.get("state", batches.steps)
    state = (None if found is None else State.of(found, student)) or State.new(student)
    rates = _rates(student)
    for value in state.values:
        value.requires_grad_()
    while state.step < batches.steps:
        inputs = batches.inputs(clean, state.step)
        wanted = taught(batches, kept, state.step) if teacher else inputs.noise
        gradients, loss = _gradients(target, student, state, inputs, wanted, progress)
        if clipped(gradients):
            adam(state, gradients, [rate * cosine(state.step, batches.steps) for rate in rates])
        state.step += 1
        state.losses.append(loss)
        if look is not None and state.step in looks(batches.steps):
            state.gains.append(look(_now(student, state).whole()))
        if state.step % SAVE_EVERY == 0:
            kept.put("state", batches.steps, tensors=state.tensors())
    if not all(map(math.isfinite, state.losses[-1:])):
        raise NumericError(
            "The target gives NaN or infinity with gradients.",
            hint="Run the model in a wider number format (--no-half).",
        )
    return Imitation(_now(student, state).whole(), tuple(state.losses), tuple(state.gains))


def looks(steps: int) -> tuple[int, ...]:
    """The numbers of steps after which the gain is looked at; the end is not among them."""
    return tuple(sorted({round(steps * part / LOOKS) for part in range(1, LOOKS)} - {0, steps}))


def adam(state: State, gradients: list[Tensor], rates: list[float]) -> None:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) on the values of ``state``, in place.

    Args:
        state: values, and running means of gradients and of their squares.
        gradients: the gradient of each value.
        rates: the learning rate of each value.
    """
    (first, second), count = BETAS, state.step + 1
    with torch.no_grad():
        for value, mean, square, gradient, rate in zip(
            state.values, state.means, state.squares, gradients, rates, strict=True
        ):
            mean.mul_(first).add_(gradient, alpha=1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            root = (square / (1 - second**count)).sqrt_().add_(EPSILON)
            value.addcdiv_(mean, root, value=-rate / (1 - first**count))


def cosine(step: int, steps: int) -> float:
    """The factor on the learning rate at ``step``: a cosine from 1 to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * step / steps)


def clipped(gradients: list[Tensor]) -> bool:
    """Clip the norm of all gradients together to :data:`MAX_GRAD_NORM`, in place; whether they are finite."""
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    if not math.isfinite(norm):
        return False
    if norm > MAX_GRAD_NORM:
        for gradient in gradients:
            gradient.mul_(MAX_GRAD_NORM / norm)
    return True


def _gradients(
    target: Model, student: Student, state: State, inputs: Inputs, wanted: Tensor, progress: Progress
) -> tuple[list[Tensor], float]:
    """The gradient of the mean loss over ``inputs`` with respect to every value, and the loss."""
    summed = [torch.zeros_like(value) for value in state.values]
    lost = 0.0
    parts = zip(inputs.parts(target.together), torch.split(wanted, target.together), strict=True)
    for some, of_these in parts:
        check(progress)
        # The adapter is put on anew for each part: the tensors that its hooks keep belong to one backward pass.
        with (
            applied(target.places, student.fixed),
            applied(target.places, _trained(student, state)),
            torch.enable_grad(),
        ):
            loss = (predict(target, some, with_grad=True) - of_these).square().flatten(1).mean(1).sum()
            # Of the factors alone, so that the model's own weights get no gradients.
            found = torch.autograd.grad(LOSS_SCALE * loss, state.values, allow_unused=True)
        lost += float(loss.detach()) / len(inputs)
        for whole, gradient in zip(summed, found, strict=True):
            # A factor that plays no part in the prediction has none.
            if gradient is not None:
                whole.add_(gradient, alpha=1 / (LOSS_SCALE * len(inputs)))
        del loss, found
        for _ in range(COST * len(some)):
            progress.step("imitation")
    return summed, lost


def _trained(student: Student, state: State) -> dict[str, Update]:
    """The factors as they are now, as updates that carry gradients."""
    pairs = zip(state.values[0::2], state.values[1::2], strict=True)
    return {name: Update(factors=Factors(*pair)) for name, pair in zip(student.factors, pairs, strict=True)}


def _now(student: Student, state: State) -> Student:
    made = {name: update.factors for name, update in _trained(student, state).items() if update.factors is not None}
    return dataclasses.replace(student, factors=made)


def _rates(student: Student) -> list[float]:
    """The learning rate of every value."""
    rates = []
    for name, (_, down) in student.factors.items():
        factor = FROM_REUSE if name in student.reused else 1.0
        rates += [factor * RATE * student.sizes[name], factor * RATE_DOWN / down.shape[1]]
    return rates
