"""Distillation: train an adapter's factors, without data, until the target moves as the source does.

    minimise |dV_t(up, down) - dV_s|^2 / |dV_s|^2

by Adam (Kingma and Ba 2015) on the inputs that are fitted to: a student learns from a teacher's outputs (Hinton et al. 2015). It
begins with an adapter that transfers in part, and keeps its modules and ranks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_transfer.linalg.factors import Factors, balanced
from lib_transfer.models.apply import Change, Changes, applied
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, predict
from lib_transfer.progress import Progress, check

STEPS, BATCH = 40, 8
RATE = 0.05
"""Of the root mean square of each factor, the learning rate: adapters come in all sizes."""

LONGEST = 1.0
"""Of a step's gradient: a longer one is shortened to it, as is usual where networks are trained."""

AMPLIFIED = 1024.0
"""What a loss is multiplied with on its way back, so that half precision does not lose it."""

WEIGHT = 3
"""How many runs a run with its way back takes as long as, about (Kaplan et al. 2020, table 1: twice as much backward)."""


def distil(
    model: Model, inputs: Inputs, wanted: Tensor, without: Tensor, start: Changes, progress: Progress
) -> dict[str, Change]:
    """The changes of ``start`` with factors trained so that ``model`` moves as ``wanted``; those without factors stay.

    Args:
        model: the target, which must be differentiable; runs ``runs(inputs) / 3`` times forth and back.
        inputs: those that are fitted to.
        wanted: movement of the source ``(n, channels, height, width)``.
        without: what the target says of the inputs without an adapter.
        start: the adapter to begin with.
        progress: asked before every run whether to stop; told three runs for each, which is how long it takes.
    """
    trained = {name: _leaves(change.weight) for name, change in start.items() if isinstance(change.weight, Factors)}
    if not trained:
        return dict(start)
    leaves = [leaf for factors in trained.values() for leaf in (factors.up, factors.down)]
    rates = [RATE * _size(leaf) for leaf in leaves]
    optimiser = torch.optim.Adam([{"params": [leaf]} for leaf in leaves])
    scale = float(wanted.double().square().mean()) or 1.0
    changes = {name: Change(trained.get(name, change.weight), change.bias) for name, change in start.items()}
    for step, chosen in enumerate(_batches(len(inputs))):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * _falling(step)
        optimiser.zero_grad()
        for place in chosen:
            check(progress)
            # Put on anew for each: what a hook made of the factors belongs to one way back.
            with applied(model.places, changes), torch.enable_grad():
                moved = predict(model, inputs.only([place]), traced=True) - without[place]
                loss = (moved - wanted[place]).square().mean() / scale / len(chosen)
                # Asked for these alone: the model's own weights get no gradients.
                back = torch.autograd.grad(AMPLIFIED * loss, leaves, allow_unused=True)
            for leaf, gradient in zip(leaves, back, strict=True):
                _add(leaf, gradient)
            for _ in range(WEIGHT):
                progress.step("distillation")
        if _shortened(leaves):
            optimiser.step()
    return {name: _settled(change) for name, change in changes.items()}


def halfway(start: Changes, trained: Changes) -> dict[str, Change]:
    """The mean of the factors before and after :func:`distil`.

    What it began with may be worth more than was seen on the inputs; such a mean keeps most of both (WiSE-FT, Wortsman et al.
    2022, equation 1).
    """
    met = {}
    for name, change in trained.items():
        begun, done = start[name].weight, change.weight
        if isinstance(begun, Factors) and isinstance(done, Factors):
            even = _even(begun)
            met[name] = Change(Factors((even.up + done.up) / 2, (even.down + done.down) / 2), change.bias)
        else:
            met[name] = change
    return met


def runs(number_of_inputs: int) -> int:
    """How many runs of the model :func:`distil` takes as long as."""
    return WEIGHT * STEPS * min(BATCH, number_of_inputs)


def _batches(number: int) -> list[list[int]]:
    """Which inputs each step looks at: every one in turn, in an order of its own in every round."""
    generator = torch.Generator().manual_seed(0)
    size = min(BATCH, number)
    order: list[int] = []
    while len(order) < STEPS * size:
        order += torch.randperm(number, generator=generator).tolist()
    return [order[begin : begin + size] for begin in range(0, STEPS * size, size)]


def _falling(step: int) -> float:
    """A cosine from 1 to nothing."""
    return 0.5 + 0.5 * math.cos(math.pi * step / STEPS)


def _leaves(given: Factors) -> Factors:
    even = _even(given)
    return Factors(even.up.clone().requires_grad_(), even.down.clone().requires_grad_())


def _even(given: Factors) -> Factors:
    return balanced(Factors(given.up.float().cpu(), given.down.float().cpu()))


def _size(factor: Tensor) -> float:
    return float(factor.detach().square().mean().sqrt())


def _add(leaf: Tensor, gradient: Tensor | None) -> None:
    """Gradients of a batch's inputs add up; what plays no part in a prediction has none."""
    if gradient is not None:
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _shortened(leaves: list[Tensor]) -> bool:
    """Bring the gradients to their own size, and to :data:`LONGEST`; whether they are finite."""
    given = [leaf.grad for leaf in leaves if leaf.grad is not None]
    for gradient in given:
        gradient.div_(AMPLIFIED)
    length = float(torch.nn.utils.clip_grad_norm_(leaves, LONGEST)) if given else 0.0
    return math.isfinite(length)


def _settled(change: Change) -> Change:
    weight = change.weight
    return (
        Change(Factors(weight.up.detach(), weight.down.detach()), change.bias)
        if isinstance(weight, Factors)
        else change
    )
