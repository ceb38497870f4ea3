"""Pursuit: one strength for each group of modules, so that the target moves as the source does.

Gauss-Newton on ``|dV_t(s) - dV_s|^2 / |dV_s|^2 + rho |s - 1|^2`` over the strengths ``s`` of the groups; the derivatives are
differences of runs. The ridge toward 1 keeps what the inputs say nothing about as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.evaluation.improvements.improvement import GIVEN, Evidence, Scale, Start, Target
from lib_transfer.evaluation.movement import predictions
from lib_transfer.progress import Progress
from lib_transfer.update import Updates

RIDGE = 0.01
DIFFERENCE = 0.25
"""By how much a strength is moved for a derivative: far above the rounding of half precision."""

ITERATIONS = 2


@dataclass(frozen=True)
class Pursuit:
    """The given adapter with a strength for each group of its modules folded in."""

    name: str = "pursuit"
    starts: Sequence[str] = (GIVEN,)
    needs_streams: bool = False
    needs_gradients: bool = False

    def cost(self, scale: Scale) -> int:
        """One run per input at the start, and in each iteration one for each group and one for the result."""
        return scale.inputs * (1 + ITERATIONS * (scale.groups + 1))

    def improve(self, target: Target, evidence: Evidence, start: Start, progress: Progress) -> Updates:
        """As :class:`Improvement` says."""
        strengths = fitted_strengths(target, evidence, start.updates, progress)
        return {name: update.scaled(strengths[target.groups[name]]) for name, update in start.updates.items()}


def fitted_strengths(target: Target, evidence: Evidence, updates: Updates, progress: Progress) -> Mapping[str, float]:
    """The strengths, by group, with which the target moves as the source does; see :class:`Improvement`."""
    group = target.groups
    names = sorted({group[name] for name in updates})
    wanted = evidence.movement.double().flatten()
    scale = float(wanted.square().sum()) or 1.0

    def moved(strengths: Tensor) -> Tensor:
        factors = dict(zip(names, strengths.tolist(), strict=True))
        said = predictions(
            target.model, evidence.inputs, progress, "pursuit", updates, lambda name: factors[group[name]]
        )
        return (said - evidence.without).double().flatten()

    def objective(at: Tensor, movement: Tensor) -> float:
        lost = (movement - wanted).square().sum() / scale
        return float(lost + RIDGE * (at - 1).square().sum())

    s = torch.ones(len(names), dtype=torch.float64)
    movement = moved(s)
    reached = objective(s, movement)
    for _ in range(ITERATIONS):
        steps = DIFFERENCE * torch.eye(len(names), dtype=torch.float64)
        jacobian = torch.stack([(moved(s + step) - movement) / DIFFERENCE for step in steps], dim=1)
        gram = jacobian.T @ jacobian / scale + RIDGE * torch.eye(len(names), dtype=torch.float64)
        slope = jacobian.T @ (movement - wanted) / scale + RIDGE * (s - 1)
        new = s - torch.linalg.solve(gram, slope)
        new_movement = moved(new)
        value = objective(new, new_movement)
        if value >= reached:
            break
        s, movement, reached = new, new_movement, value
    return dict(zip(names, s.tolist(), strict=True))
