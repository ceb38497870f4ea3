"""Distillation on networks whose exact answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lib_transfer.errors import CancelledError
from lib_transfer.evaluation.improvements import distillation
from lib_transfer.evaluation.improvements.distillation import Distillation, average_weights, distil
from lib_transfer.evaluation.improvements.improvement import Scale
from lib_transfer.evaluation.movement import match, predictions
from lib_transfer.linalg.factors import Factors, balanced
from lib_transfer.models import Inputs, Schedule, TorchModel, places
from lib_transfer.progress import Silent
from lib_transfer.update import Update
from tests.evaluation import nets
from tests.evaluation.test_reconstruction import WIDTH, original


class Stop(Silent):
    def __init__(self, after: int) -> None:
        self.steps, self.after = 0, after

    def step(self, what: str) -> None:
        self.steps += 1

    def cancelled(self) -> bool:
        return self.steps >= self.after


def linear(channels: int = 4) -> tuple[nn.Linear, TorchModel]:
    """A model that is one linear layer over the channels of every pixel."""
    torch.manual_seed(1)
    layer = nn.Linear(channels, channels)

    def forward(x: torch.Tensor, *_: object) -> torch.Tensor:
        result: torch.Tensor = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result

    schedule = Schedule.stable_diffusion()
    return layer, TorchModel(places({"layer": layer}), forward, schedule, nets.SHAPE, differentiable=True)


def test_the_first_step_goes_down_the_formulas_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the gradient of the movement match in closed form, float64: Adam's first step is its sign."""
    _, model = linear()
    inputs = nets.inputs(6)
    torch.manual_seed(2)
    start = balanced(balanced(Factors(torch.randn(4, 2) * 0.1, torch.randn(2, 4) * 0.1)))
    # Of every input another movement is wanted, so that no one of them has the gradient of all.
    truth = torch.randn(6, 4, 4, dtype=torch.float64)
    x = model.schedule.noised(inputs.clean, inputs.noise, inputs.times).double()
    rows = x.permute(0, 2, 3, 1).reshape(6, -1, 4)
    wanted = (rows @ truth.mT).reshape(6, 8, 8, 4).permute(0, 3, 1, 2).float()
    monkeypatch.setattr(distillation, "STEPS", 1)
    without = predictions(model, inputs, Silent(), "")
    new = distil(model, nets.evidence(inputs, wanted, without), {"layer": Update(start)}, Silent())["layer"].factors
    assert new is not None
    up, down = start.up.double(), start.down.double()
    outer = ((up @ down - truth) @ (rows.mT @ rows)).sum(0)
    for before, after, gradient in ((start.up, new.up, outer @ down.T), (start.down, new.down, up.T @ outer)):
        rate = distillation.LEARNING_RATE * float(before.square().mean().sqrt())
        # All six inputs are in the first batch.
        torch.testing.assert_close(after - before, -rate * gradient.sign().float(), rtol=1e-2, atol=1e-5)


def test_it_reaches_an_adapter_that_is_there_to_be_found() -> None:
    network = nets.Network(WIDTH)
    model, given, inputs = nets.model(network), original(network), nets.inputs(16)
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    without = predictions(model, inputs, Silent(), "")
    wanted = predictions(model, inputs, Silent(), "", given) - without
    torch.manual_seed(4)
    start = {
        name: Update(Factors(c.factors.up * (0.4 + 0.4 * torch.randn(1)), c.factors.down))  # type: ignore[union-attr]
        for name, c in given.items()
    }
    held = inputs.only(range(12, 16))

    def reached(changes: dict[str, Update]) -> float:
        moved = predictions(model, held, Silent(), "", changes) - without[12:]
        return match(moved, wanted[12:]).explained

    found = distil(model, nets.evidence(inputs.only(range(12)), wanted[:12], without[:12]), start, Silent())
    assert reached(start) < 0.85
    assert reached(found) > 0.93
    assert reached(start) < reached(average_weights(start, found)) < reached(found)
    # The weights of the network are no part of what is trained, and nothing stays on it.
    assert all(torch.equal(weights[name], p) for name, p in network.named_parameters())
    assert all(p.grad is None for _, p in network.named_parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(not c.factors.up.requires_grad for c in found.values())  # type: ignore[union-attr]


def test_what_has_no_factors_stays_and_the_mean_is_of_the_factors() -> None:
    _, model = linear()
    inputs = nets.inputs(2)
    given = {"layer": Update(weight=torch.full((4, 4), 0.1), bias=torch.ones(4))}
    without = predictions(model, inputs, Silent(), "")
    found = distil(model, nets.evidence(inputs, torch.ones_like(without), without), given, Silent())
    assert found["layer"].weight is given["layer"].weight
    assert found["layer"].bias is given["layer"].bias
    one = balanced(Factors(torch.randn(4, 2), torch.randn(2, 4)))
    other = Factors(torch.randn(4, 2), torch.randn(2, 4))
    met = average_weights({"layer": Update(one)}, {"layer": Update(other)})["layer"].factors
    assert met is not None
    torch.testing.assert_close(met.up, (one.up + other.up) / 2)
    torch.testing.assert_close(met.down, (one.down + other.down) / 2)


@pytest.mark.parametrize("number", [3, 8, 20])
def test_runs_are_counted_and_every_input_is_looked_at(number: int) -> None:
    batches = distillation._batches(number)
    assert len(batches) == distillation.STEPS
    assert Distillation(()).cost(Scale(number, 15, 70)) == 3 * sum(map(len, batches))
    seen = [place for batch in batches for place in batch]
    assert set(seen) == set(range(number))
    counts = [seen.count(place) for place in range(number)]
    assert max(counts) - min(counts) <= 1
    assert all(len(set(batch)) == len(batch) for batch in batches[: number // 8 or 1])


def test_it_can_be_stopped_and_leaves_nothing() -> None:
    network = nets.Network(WIDTH)
    model, given, inputs = nets.model(network), original(network), nets.inputs(4)
    without = predictions(model, inputs, Silent(), "")
    with pytest.raises(CancelledError):
        distil(model, nets.evidence(inputs, without, without), given, Stop(30))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_gradient_that_is_no_number_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, model = linear()
    inputs: Inputs = nets.inputs(2)
    monkeypatch.setattr(distillation, "STEPS", 2)
    start = Factors(torch.randn(4, 2), torch.randn(2, 4))
    without = predictions(model, inputs, Silent(), "")
    with torch.no_grad():
        layer.weight.fill_(math.inf)
    found = distil(model, nets.evidence(inputs, without, without), {"layer": Update(start)}, Silent())["layer"].factors
    assert found is not None
    torch.testing.assert_close(found.up @ found.down, start.up @ start.down)
