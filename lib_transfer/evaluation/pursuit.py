"""Pursuit: one strength for each group of modules, so that the target moves as the source does.

Gauss-Newton on ``|dV_t(s) - dV_s|^2 / |dV_s|^2 + rho |s - 1|^2`` over the strengths ``s`` of the groups; derivatives by
differences of runs. The ridge toward 1 keeps what the inputs say nothing about as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.evaluation.movement import predictions
from lib_transfer.models.apply import Changes
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model
from lib_transfer.progress import Progress

RIDGE = 0.01
DIFFERENCE = 0.25
"""By how much a strength is moved for a derivative: far above the rounding of half precision."""

ITERATIONS = 2


@dataclass(frozen=True)
class Pursuit:
    """What was found.

    Attributes:
        strengths: by group.
        objective: before the first iteration and after each.
    """

    strengths: Mapping[str, float]
    objective: tuple[float, ...]


def pursue(
    model: Model,
    inputs: Inputs,
    wanted: Tensor,
    without: Tensor,
    changes: Changes,
    group: Mapping[str, str],
    progress: Progress,
) -> Pursuit:
    """The strengths of the groups of ``changes`` with which ``model`` moves as ``wanted``.

    Args:
        model: the target; runs ``runs(groups, inputs)`` times.
        inputs: those that are fitted to.
        wanted: movement of the source ``(n, channels, height, width)``.
        without: what the target says of the inputs without an adapter.
        changes: of the transferred adapter.
        group: of every module.
        progress: asked before every run whether to stop.
    """
    names = sorted({group[name] for name in changes})
    scale = float(wanted.double().square().sum()) or 1.0

    def moved(strengths: Sequence[float], what: str) -> Tensor:
        factors = dict(zip(names, strengths, strict=True))
        said = predictions(model, inputs, progress, what, changes, lambda name: factors[group[name]])
        return (said - without).double().flatten()

    def objective(at: Tensor, movement: Tensor) -> float:
        lost = (movement - target).square().sum() / scale
        return float(lost + RIDGE * (at - 1).square().sum())

    target = wanted.double().flatten()
    s = torch.ones(len(names), dtype=torch.float64)
    movement = moved(s.tolist(), "pursuit")
    reached = [objective(s, movement)]
    for _ in range(ITERATIONS):
        columns = []
        for place in range(len(names)):
            other = s.clone()
            other[place] += DIFFERENCE
            columns.append((moved(other.tolist(), "pursuit") - movement) / DIFFERENCE)
        jacobian = torch.stack(columns, dim=1)
        gram = jacobian.T @ jacobian / scale + RIDGE * torch.eye(len(names), dtype=torch.float64)
        slope = jacobian.T @ (movement - target) / scale + RIDGE * (s - 1)
        new = s - torch.linalg.solve(gram, slope)
        new_movement = moved(new.tolist(), "pursuit")
        value = objective(new, new_movement)
        if value >= reached[-1]:
            break
        s, movement = new, new_movement
        reached.append(value)
    return Pursuit(dict(zip(names, s.tolist(), strict=True)), tuple(reached))


def runs(number_of_groups: int, number_of_inputs: int) -> int:
    """How often :func:`pursue` runs the model at most."""
    return number_of_inputs * (1 + ITERATIONS * (number_of_groups + 1))
