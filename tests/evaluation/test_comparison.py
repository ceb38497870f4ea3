"""The order in which models are run, what is announced, and what is decided."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from lib_transfer.errors import CancelledError, MismatchError, NumericError
from lib_transfer.evaluation import Adapters, Evaluation, Match, Pair, Setup, choose, compare, match
from lib_transfer.evaluation.comparison import runs_of, split
from lib_transfer.evaluation.improvements import distillation, improvements
from lib_transfer.evaluation.improvements.improvement import Improvement, Scale, groups
from lib_transfer.evaluation.movement import distance_of
from lib_transfer.linalg.factors import Factors, balanced
from lib_transfer.models.model import predict
from lib_transfer.progress import Silent
from lib_transfer.update import Update, Updates
from tests.evaluation import nets
from tests.evaluation.test_reconstruction import WIDTH, original, turns, twin

BLOCKS = 3
PURSUIT, _, _, DISTILLATION = improvements()


class Counting(Silent):
    """Counts what is announced and what happens."""

    def __init__(self, stop: int = -1) -> None:
        self.total, self.steps, self.stop = 0, 0, stop

    def start(self, total: int, what: str) -> None:
        self.total += total

    def step(self, what: str) -> None:
        self.steps += 1

    def cancelled(self) -> bool:
        return self.steps == self.stop


def test_movement_match_is_the_formula() -> None:
    torch.manual_seed(0)
    wanted, moved = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    found = match(moved, wanted)
    expected = 1 - float((moved - wanted).norm() ** 2 / wanted.norm() ** 2)
    assert found.explained == pytest.approx(expected, abs=1e-6)
    for number in range(3):
        one = 1 - float((moved[number] - wanted[number]).norm() ** 2 / wanted[number].norm() ** 2)
        assert found.each[number] == pytest.approx(one, abs=1e-6)
    assert match(wanted, wanted).explained == 1
    assert match(torch.zeros_like(wanted), wanted).explained == 0
    assert match(-wanted, wanted).explained == pytest.approx(-3)
    assert match(wanted * 0, wanted * 0).explained == 1
    assert math.isinf(match(wanted, wanted * 0).explained)


@pytest.mark.parametrize(("explained", "verdict"), [(0.6, "reproduces"), (0.59, "partly"), (0.29, "does not transfer")])
def test_the_verdict_follows_its_thresholds(explained: float, verdict: str) -> None:
    found = Match(explained, (explained - 0.1, explained + 0.1))
    assert found.verdict == verdict
    assert f"{explained:.2f}; {explained - 0.1:.2f} to {explained + 0.1:.2f}" in found.text


def test_reuse_on_the_same_model_explains_everything_at_forty_runs() -> None:
    network = nets.Network(WIDTH)
    calls: list[int] = []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    model, log, progress, given = nets.model(network), [], Counting(), original(network)
    halved = {name: change.scaled(0.5) for name, change in given.items()}
    pair = Pair(nets.opens(model, log, "source"), nets.opens(model, log, "target"))
    adapters, setup = Adapters(given, {"reuse": given, "half": halved}, "reuse"), Setup(["a", "b"])
    found = compare(pair, adapters, setup, progress)
    assert log == ["+source", "-source", "+target", "-target"]
    runs = runs_of(pair, adapters, setup)
    assert runs.others == 40
    assert len(calls) == runs.all
    # Sampling is told by steps, each of which runs the model twice.
    assert progress.total == runs.all
    assert found.matches["reuse"].explained == pytest.approx(1, abs=1e-6)
    assert 0.5 < found.matches["half"].explained < 0.95
    assert found.choice.name == "reuse"
    assert "Reuse has the best movement match" in found.choice.reason


def test_everything_at_once_on_a_twin() -> None:
    """Reuse is wrong there, pursuit cannot help it, reconstruction does; it is chosen, with the runs that were announced."""
    network = nets.Network(WIDTH)
    other = twin(network, turns()["turned"])
    calls: list[int] = []
    for it in (network, other):
        it.register_forward_pre_hook(lambda *_: calls.append(1))
    given = original(network)
    group = {name: name.split(".")[2] for name in given}
    pair = Pair(nets.opens(nets.model(network)), nets.opens(nets.model(other)), "", group, BLOCKS)
    adapters, setup, progress = Adapters(given, {"reuse": given}, "reuse", "reuse"), Setup(["a"], 4, 8), Counting()
    found = compare(pair, adapters, setup, progress, improvements(4))
    assert set(found.matches) == {"reuse", "pursuit", "reconstruct", "pursuit + reconstruct", "distil"}
    assert found.matches["distil"].explained > found.matches["pursuit"].explained + 0.1
    assert found.matches["reuse"].explained < 0.3
    assert found.matches["reconstruct"].explained > 0.8
    assert found.choice.name in ("reconstruct", "pursuit + reconstruct")
    assert found.distance < 1e-6
    # As announced; the pursuit may do without its second iteration, and a run with gradients counts as two runs more.
    assert progress.total == runs_of(pair, adapters, setup, improvements(4)).all
    assert progress.total - 8 * (3 + 1) <= progress.steps <= progress.total
    assert progress.steps - len(calls) == 2 * DISTILLATION.cost(Scale(8, 3, BLOCKS)) // 3


def test_what_begins_with_reuse_is_averaged_with_what_is_distilled(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nets.Network(WIDTH)

    def doubled(model: object, evidence: object, start: Updates, progress: object) -> Updates:
        even = {name: balanced(update.factors) for name, update in start.items() if update.factors is not None}
        return {name: Update(Factors(2 * factors.up, 2 * factors.down)) for name, factors in even.items()}

    monkeypatch.setattr(distillation, "distil", doubled)
    listed = improvements()
    for tried, begun, factor in ((listed, "pursuit", 1.5 * 1.5), (listed[1:], "reconstruct", 4.0)):
        found = tried_on_itself(network, tried)
        for name, change in found.updates["distil"].items():
            torch.testing.assert_close(
                product(change), factor * product(found.updates[begun][name]), rtol=1e-3, atol=1e-5
            )


def tried_on_itself(network: nets.Network, tried: Sequence[Improvement], *, differentiable: bool = True) -> Evaluation:
    """What improvements make of the adapter on the very model that it is for."""
    model, given = nets.model(network), original(network)
    model.differentiable = differentiable
    pair = Pair(nets.opens(model), nets.opens(model), "", dict.fromkeys(given, "all"), BLOCKS)
    return compare(pair, Adapters(given, {"reuse": given}, "reuse", "reuse"), Setup(["a"], 2, 2), Silent(), tried)


def product(update: Update) -> torch.Tensor:
    assert update.factors is not None
    return update.matrix()


def test_too_little_memory_for_distillation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(distillation, "distil", full)
    found = tried_on_itself(nets.Network(WIDTH), (PURSUIT, DISTILLATION))
    assert set(found.matches) == {"reuse", "pursuit"}
    assert "memory is too small" in found.notes[0]


def test_gradients_are_carried_only_where_they_are_asked_for() -> None:
    network = nets.Network(WIDTH)
    model, inputs = nets.model(network), nets.inputs(1)
    assert not predict(model, inputs).requires_grad
    assert predict(model, inputs, with_grad=True).requires_grad
    model.differentiable = False
    assert not predict(model, inputs, with_grad=True).requires_grad


@pytest.mark.parametrize("insist", [False, True])
def test_nothing_is_fitted_between_bases_that_are_too_far_distance_of(insist: bool) -> None:
    network, stranger = nets.Network(WIDTH), nets.Network(WIDTH, seed=9)
    given = original(network)
    opens = (nets.opens(nets.model(it)) for it in (network, stranger))
    pair, adapters = (
        Pair(*opens, "", dict.fromkeys(given, "all"), BLOCKS),
        Adapters(given, {"reuse": given}, "reuse", "reuse"),
    )
    found = compare(pair, adapters, Setup(["a"], 4, 4), Silent(), (PURSUIT, DISTILLATION), insist=insist)
    assert found.distance > 1
    assert set(found.matches) == ({"reuse", "pursuit", "distil"} if insist else {"reuse"})
    assert found.choice.name == "reuse"
    assert "unjudged" in found.choice.reason


def test_the_distance_of_bases_is_the_formula() -> None:
    torch.manual_seed(0)
    here, there, wanted = (torch.randn(3, 4, 2, 2) for _ in range(3))
    assert distance_of(here, there, wanted) == pytest.approx(
        float((here - there).norm() ** 2 / wanted.norm() ** 2), rel=1e-6
    )
    assert distance_of(here, here, wanted * 0) == 0
    assert math.isinf(distance_of(here, there, wanted * 0))


def test_a_model_without_gradients_is_not_distilled() -> None:
    found = tried_on_itself(nets.Network(WIDTH), (PURSUIT, DISTILLATION), differentiable=False)
    assert set(found.matches) == {"reuse", "pursuit"}
    assert found.notes[0].startswith("distil was left out")


@pytest.mark.parametrize("stop", [0, 3, 45, 170, 190])
def test_it_can_be_stopped_at_any_run_and_leaves_nothing(stop: int) -> None:
    network = nets.Network(WIDTH)
    model, given, log = nets.model(network), original(network), []
    before = [p.detach().clone() for p in network.parameters()]
    opens = nets.opens(model, log, "m")
    with pytest.raises(CancelledError):
        compare(Pair(opens, opens), Adapters(given, {"reuse": given}, "reuse", "reuse"), Setup(["a"]), Counting(stop))
    assert log.count("+m") == log.count("-m")
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))
    assert not any(module._forward_hooks for module in network.modules())


def test_what_does_not_fit_and_what_is_not_finite_is_said() -> None:
    network = nets.Network(WIDTH)
    opens, given = nets.opens(nets.model(network)), original(network)
    pair = Pair(opens, opens)
    with pytest.raises(MismatchError, match="no module elsewhere"):
        compare(
            pair, Adapters({"elsewhere": Update(weight=torch.ones(1))}, {"reuse": given}), Setup(["a"], 1), Silent()
        )
    with torch.no_grad():
        network.last.weight.fill_(float("nan"))
    with pytest.raises(NumericError, match="The source's samples hold NaN"):
        compare(pair, Adapters(given, {"reuse": given}), Setup(["a"], 1), Silent())


def of(**explained: float) -> dict[str, Match]:
    return {name: Match(value, (value,)) for name, value in explained.items()}


def test_between_bases_that_are_too_far_apart_reuse_is_kept_unjudged() -> None:
    matches = of(reuse=0.2, distil=0.9)
    assert choose(matches, "reuse", 1.0).name == "distil"
    # More has to be gained, the farther apart they are.
    assert choose(of(reuse=0.5, distil=0.65), "reuse", 0.7).name == "distil"
    assert choose(of(reuse=0.5, distil=0.65), "reuse", 0.8).name == "reuse"
    kept = choose(matches, "reuse", 3.0)
    assert kept.name == "reuse"
    assert "differ here 1.7 times as much" in kept.reason
    assert choose(of(reconstruct=0.9), None, 1.5).name is None


@pytest.mark.parametrize(
    ("matches", "reuse", "name", "said"),
    [
        (of(reuse=0.5, pursuit=0.61), "reuse", "pursuit", "pursuit has a movement match of 0.61; reuse has 0.50"),
        (of(reuse=0.5, pursuit=0.59), "reuse", "reuse", "not better by more than 0.1"),
        (of(reuse=0.7, pursuit=0.6), "reuse", "reuse", "Reuse has the best movement match, 0.70"),
        (of(reuse=0.1, pursuit=0.29), "reuse", None, "None transfers: the best, pursuit"),
        (of(reuse=0.25, pursuit=0.31), "reuse", None, "not clearly better than reuse"),
        (of(reconstruct=0.4), None, "reconstruct", "reuse is not possible"),
        (of(reconstruct=0.2), None, None, "None transfers"),
    ],
)
def test_the_choice_follows_the_margin(
    matches: dict[str, Match], reuse: str | None, name: str | None, said: str
) -> None:
    choice = choose(matches, reuse)
    assert choice.name == name
    assert said in choice.reason


@pytest.mark.parametrize(("inputs", "held"), [(16, 8), (8, 8), (12, 4), (9, 4), (3, 1)])
def test_inputs_are_split_into_parts_that_do_not_meet(inputs: int, held: int) -> None:
    kept, fitted = split(inputs, held)
    assert len(kept) == held
    assert sorted(kept + fitted) == list(range(inputs))
    assert not fitted or not set(kept) & set(fitted)


def test_groups_are_stage_and_role() -> None:
    from lib_transfer.architecture import architectures, modules, reference

    sdxl = next(a for a in architectures() if a.id == "sdxl")
    found = groups(modules(sdxl, reference(sdxl)))
    block = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0"
    assert found[f"{block}.attn1.to_q"] == "input self-attention"
    assert found[f"{block}.attn2.to_out.0"] == "input cross-attention"
    assert found[f"{block}.ff.net.2"] == "input feed-forward"
    assert {g for g in found.values() if g.startswith("text")} == {"text encoder 1", "text encoder 2"}
    assert len(set(found.values())) <= 16
