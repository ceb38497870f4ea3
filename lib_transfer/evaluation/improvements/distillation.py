"""Distillation: train an adapter's factors, without data, until the target moves as the source does.

    minimise |dV_t(up, down) - dV_s|^2 / |dV_s|^2

by Adam (Kingma and Ba 2015) on the inputs that are fitted to: a student learns from a teacher's outputs (Hinton et al. 2015). It
begins with an adapter that transfers in part, and keeps its modules and ranks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.evaluation.improvements.improvement import Evidence, Scale, Start, Target
from lib_transfer.linalg.factors import Factors, balanced
from lib_transfer.models.apply import applied
from lib_transfer.models.model import Model, predict
from lib_transfer.progress import Progress, check
from lib_transfer.update import Update, Updates

STEPS, BATCH = 40, 8
LEARNING_RATE = 0.05
"""The learning rate of a factor, as a share of its root mean square: adapters come in all sizes."""

MAX_GRAD_NORM = 1.0
"""The norm that a step's gradient is clipped to."""

LOSS_SCALE = 1024.0
"""The factor on the loss before its gradients are taken, so that half precision does not round them to zero."""

COST_PER_STEP = 3
"""How many runs a run with gradients takes as long as, about (Kaplan et al. 2020, table 1: the backward pass takes two)."""


@dataclass(frozen=True)
class Distillation:
    """A trained adapter.

    Attributes:
        starts: the adapters that it can begin with.
        averaged: those of them that may be worth more than was seen on the inputs: the mean of such a start and of what was
            trained is the result. What was itself fitted to these inputs has nothing else in it to be kept.
    """

    starts: Sequence[str]
    averaged: Sequence[str] = ()
    name: str = "distil"
    needs_streams: bool = False
    needs_gradients: bool = True

    def cost(self, scale: Scale) -> int:
        """One run with gradients for each input of each batch."""
        return COST_PER_STEP * STEPS * min(BATCH, scale.inputs)

    def improve(self, target: Target, evidence: Evidence, start: Start, progress: Progress) -> Updates:
        """As :class:`Improvement` says."""
        trained = distil(target.model, evidence, start.updates, progress)
        return average_weights(start.updates, trained) if start.name in self.averaged else trained


def distil(model: Model, evidence: Evidence, start: Updates, progress: Progress) -> dict[str, Update]:
    """The updates of ``start`` with factors trained so that ``model`` moves as the source does; those without factors stay.

    Args:
        model: the target, which must be differentiable.
        evidence: what the factors are fitted to.
        start: the adapter to begin with.
        progress: gets :data:`COST_PER_STEP` steps for each run with gradients.
    """
    trained = {
        name: dataclasses.replace(update, factors=_parameters(update.factors))
        for name, update in start.items()
        if update.factors is not None
    }
    if not trained:
        return dict(start)
    parameters = [factor for update in trained.values() for factor in update.factors or ()]
    rates = [LEARNING_RATE * _root_mean_square(parameter) for parameter in parameters]
    optimiser = torch.optim.Adam([{"params": [parameter]} for parameter in parameters])
    size = float(evidence.movement.double().square().mean()) or 1.0
    updates = {**start, **trained}
    for step, batch in enumerate(_batches(len(evidence.inputs))):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * cosine_decay(step)
        optimiser.zero_grad()
        for place in batch:
            check(progress)
            # The adapter is put on anew for each input: the tensors that its hooks keep belong to one backward pass.
            with applied(model.places, updates), torch.enable_grad():
                moved = predict(model, evidence.inputs.only([place]), with_grad=True) - evidence.without[place]
                loss = (moved - evidence.movement[place]).square().mean() / size / len(batch)
                # Of the factors alone, so that the model's own weights get no gradients.
                gradients = torch.autograd.grad(LOSS_SCALE * loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                _accumulate(parameter, gradient)
            for _ in range(COST_PER_STEP):
                progress.step("distillation")
        if unscale_and_clip(parameters):
            optimiser.step()
    return {name: _detached(update) for name, update in updates.items()}


def average_weights(start: Updates, trained: Updates) -> dict[str, Update]:
    """The mean of the factors before and after :func:`distil`.

    Such a mean keeps most of both (WiSE-FT, Wortsman et al. 2022, equation 1).
    """
    averaged = dict(trained)
    for name, update in trained.items():
        before, after = start[name].factors, update.factors
        if before is not None and after is not None:
            even = _balanced(before)
            mean = Factors((even.up + after.up) / 2, (even.down + after.down) / 2)
            averaged[name] = dataclasses.replace(update, factors=mean)
    return averaged


def cosine_decay(step: int) -> float:
    """The factor on the learning rate at ``step``: a cosine from 1 to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * step / STEPS)


def unscale_and_clip(parameters: list[Tensor]) -> bool:
    """Divide the gradients by :data:`LOSS_SCALE` and clip their norm to :data:`MAX_GRAD_NORM`; whether they are finite."""
    given = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for gradient in given:
        gradient.div_(LOSS_SCALE)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)) if given else 0.0
    return math.isfinite(norm)


def _batches(number: int) -> list[list[int]]:
    """The inputs of each step: all of them in turn, in another order in every round."""
    generator = torch.Generator().manual_seed(0)
    size = min(BATCH, number)
    order: list[int] = []
    while len(order) < STEPS * size:
        order += torch.randperm(number, generator=generator).tolist()
    return [order[begin : begin + size] for begin in range(0, STEPS * size, size)]


def _parameters(given: Factors) -> Factors:
    even = _balanced(given)
    return Factors(even.up.clone().requires_grad_(), even.down.clone().requires_grad_())


def _balanced(given: Factors) -> Factors:
    return balanced(Factors(given.up.float().cpu(), given.down.float().cpu()))


def _root_mean_square(factor: Tensor) -> float:
    return float(factor.detach().square().mean().sqrt())


def _accumulate(parameter: Tensor, gradient: Tensor | None) -> None:
    """Add the gradient of one input of a batch; a parameter that plays no part in the prediction has none."""
    if gradient is not None:
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _detached(update: Update) -> Update:
    if update.factors is None:
        return update
    return dataclasses.replace(update, factors=Factors(update.factors.up.detach(), update.factors.down.detach()))
