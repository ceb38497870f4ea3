"""Pursuit on networks for which the right strengths are known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from lib_transfer.errors import CancelledError
from lib_transfer.evaluation.improvements import pursuit
from lib_transfer.evaluation.improvements.improvement import Evidence, Scale, Target
from lib_transfer.evaluation.improvements.pursuit import Pursuit, fitted_strengths
from lib_transfer.evaluation.movement import predictions
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import Schedule, TorchModel, places
from lib_transfer.progress import Silent
from lib_transfer.update import Update
from tests.evaluation import nets

GROUP = {"a": "one", "b": "one", "c": "two", "d": "three"}


class Parallel(nn.Module):
    """Linear, and linear in the strengths: the sum of four layers, the last of which is never reached."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor, *_: object) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return (self.a(tokens) + self.b(tokens) + self.c(tokens)).transpose(1, 2).reshape(x.shape)


def changes(names: str = "abcd") -> dict[str, Update]:
    generator = torch.Generator().manual_seed(7)
    return {
        name: Update(Factors(torch.randn(4, 2, generator=generator), torch.randn(2, 4, generator=generator)))
        for name in names
    }


def parallel() -> TorchModel:
    network = Parallel()
    return TorchModel(places(dict(network.named_children())), network, Schedule.stable_diffusion(), nets.SHAPE)


def objective(
    model: TorchModel,
    evidence: Evidence,
    given: dict[str, Update],
    group: dict[str, str],
    strengths: Mapping[str, float],
) -> float:
    """What is minimised: the share of the movement that is missed, and the ridge toward strengths of 1."""
    said = predictions(model, evidence.inputs, Silent(), "", given, lambda name: strengths[group[name]])
    lost = (
        said - evidence.without - evidence.movement
    ).double().square().sum() / evidence.movement.double().square().sum()
    return float(lost) + pursuit.RIDGE * sum((strength - 1) ** 2 for strength in strengths.values())


def test_it_finds_the_strengths_and_leaves_alone_what_nothing_is_known_of() -> None:
    """The least-squares problem in closed form: numbers of the normal equations, solved here."""
    model, inputs, given = parallel(), nets.inputs(5), changes()
    without = predictions(model, inputs, Silent(), "")
    right = {"one": 0.4, "two": 1.7, "three": 1.0}
    wanted = predictions(model, inputs, Silent(), "", given, lambda name: right[GROUP[name]]) - without
    evidence = nets.evidence(inputs, wanted, without)
    found = fitted_strengths(Target(model, GROUP), evidence, given, Silent())

    columns = [
        (predictions(model, inputs, Silent(), "", {n: c for n, c in given.items() if GROUP[n] == group}) - without)
        for group in ("one", "two", "three")
    ]
    j, w = torch.stack([c.double().flatten() for c in columns], 1), wanted.double().flatten()
    size = w.square().sum()
    normal = j.T @ j / size + pursuit.RIDGE * torch.eye(3)
    expected = torch.linalg.solve(normal, j.T @ w / size + pursuit.RIDGE)
    got = [found[group] for group in ("one", "two", "three")]
    torch.testing.assert_close(torch.tensor(got), expected.float(), rtol=1e-3, atol=1e-3)
    assert got == pytest.approx(list(right.values()), abs=0.1)
    assert found["three"] == pytest.approx(1)
    reached, begun = (objective(model, evidence, given, GROUP, s) for s in (found, dict.fromkeys(found, 1.0)))
    assert reached < 0.1 * begun


def test_right_strengths_stay() -> None:
    network = nets.Network()
    model, inputs = nets.model(network), nets.inputs(4)
    given = {
        name: Update(Factors(torch.randn(p.module.out_features, 2) * 0.2, torch.randn(2, p.module.in_features) * 0.2))
        for name, p in model.places.items()
        if "attn" in name
    }
    without = predictions(model, inputs, Silent(), "")
    wanted = predictions(model, inputs, Silent(), "", given) - without
    group = {name: name.split(".")[2] for name in given}
    found = fitted_strengths(Target(model, group), nets.evidence(inputs, wanted, without), given, Silent())
    assert list(found.values()) == pytest.approx([1.0] * len(set(group.values())), abs=1e-3)


def test_in_a_deep_network_it_gets_better_and_counts_its_runs() -> None:
    network = nets.Network()
    model, inputs = nets.model(network), nets.inputs(4)
    torch.manual_seed(8)
    given = {
        name: Update(Factors(torch.randn(p.module.out_features, 2) * 0.3, torch.randn(2, p.module.in_features) * 0.3))
        for name, p in model.places.items()
        if ".ff." in name or "to_out" in name
    }
    group = {name: ".".join(name.split(".")[:3]) for name in given}
    right = {name: 0.5 + 0.2 * place for place, name in enumerate(sorted(set(group.values())))}
    without = predictions(model, inputs, Silent(), "")
    wanted = predictions(model, inputs, Silent(), "", given, lambda name: right[group[name]]) - without

    class Counting(Silent):
        runs = 0

        def step(self, what: str) -> None:
            self.runs += 1

    counting = Counting()
    evidence = nets.evidence(inputs, wanted, without)
    found = fitted_strengths(Target(model, group), evidence, given, counting)
    reached, begun = (objective(model, evidence, given, group, s) for s in (found, dict.fromkeys(found, 1.0)))
    assert reached < 0.25 * begun
    assert counting.runs == Pursuit().cost(Scale(4, len(right), 3))


def test_it_stops_at_any_run() -> None:
    model, inputs, given = parallel(), nets.inputs(3), changes()
    before = [p.module.weight.detach().clone() for p in model.places.values()]

    class Fifth(Silent):
        runs = 0

        def step(self, what: str) -> None:
            self.runs += 1

        def cancelled(self) -> bool:
            return self.runs == 5

    progress = Fifth()
    evidence = nets.evidence(inputs, torch.ones(3, *nets.SHAPE), torch.zeros(3, *nets.SHAPE))
    with pytest.raises(CancelledError):
        fitted_strengths(Target(model, GROUP), evidence, given, progress)
    assert progress.runs == 5
    assert all(torch.equal(p.module.weight, b) for p, b in zip(model.places.values(), before, strict=True))
    assert not any(p.module._forward_hooks for p in model.places.values())


class Wave(nn.Module):
    """What it says goes up and down with the strength, so that a step by its slope leads astray."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return torch.sin(3 * self.a(x.flatten(2).transpose(1, 2))).transpose(1, 2).reshape(x.shape)


def test_a_step_that_makes_it_worse_is_not_taken() -> None:
    network = Wave()
    model = TorchModel(places({"a": network.a}), network, Schedule.stable_diffusion(), nets.SHAPE)
    inputs, given = nets.inputs(3), changes("a")
    without = predictions(model, inputs, Silent(), "")
    wanted = predictions(model, inputs, Silent(), "", given, lambda _: 0.1) - without
    found = fitted_strengths(Target(model, {"a": "one"}), nets.evidence(inputs, wanted, without), given, Silent())
    evidence = nets.evidence(inputs, wanted, without)
    reached, begun = (objective(model, evidence, given, {"a": "one"}, s) for s in (found, {"one": 1.0}))
    moved = predictions(model, inputs, Silent(), "", given, lambda _: found["one"]) - without
    lost = float((moved - wanted).double().square().sum() / wanted.double().square().sum())
    assert reached == pytest.approx(lost + pursuit.RIDGE * (found["one"] - 1) ** 2, rel=1e-3)
    assert reached <= begun
