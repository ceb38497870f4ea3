"""Denoising losses, the domain gap, the gain, the look, the damage and the choice, against dense formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.evaluation.choice import choose, may_win
from lib_transfer.evaluation.gain import Effect, Gain, Lead, damage, gain, shares
from lib_transfer.evaluation.gap import ExcessLoss, domain_gap, excess_loss
from lib_transfer.evaluation.losses import finite, losses, predictions, probes
from lib_transfer.models import applied
from lib_transfer.models.model import predict
from lib_transfer.progress import Silent
from tests.evaluation import nets


def draw(seed: int, number: int = 3) -> Tensor:
    return torch.randn((number, *nets.SHAPE), generator=torch.Generator().manual_seed(seed))


def mean_square(values: Tensor) -> float:
    return float((values.double() ** 2).sum() / values.numel())


def test_gap_gain_and_damage_are_the_formulas() -> None:
    """Of two painters, with everything written out."""
    source, target = nets.Painter(0), nets.Painter(1)
    models = {"s": source.model(), "t": target.model()}
    style = source.style()
    prompts = ("red styled", "blue", "red blue styled")
    pictures = {name: draw(seed) for seed, name in enumerate(("x_t", "x_s", "y"))}
    inputs = {name: probes(clean, prompts, 2, 5) for name, clean in pictures.items()}

    def said(who: str, on: str, adapter: bool = False) -> Tensor:
        return predictions(models[who], inputs[on], Silent(), "", style if adapter else None)

    def loss(who: str, on: str, adapter: bool = False) -> float:
        """From the model itself, a picture at a time."""
        total = []
        for one in inputs[on]:
            with applied(models[who].places, style if adapter else {}):
                total.append(mean_square(predict(models[who], one) - one.noise))
        return sum(total) / len(total)

    for who, on in (("s", "x_t"), ("t", "y")):
        assert float(losses(said(who, on), inputs[on].noise).mean()) == pytest.approx(loss(who, on), rel=1e-6)

    learned = abs(loss("s", "y") - loss("s", "y", adapter=True))
    between = ExcessLoss(
        excess_loss(loss("s", "x_t"), loss("t", "x_t")), excess_loss(loss("t", "x_s"), loss("s", "x_s"))
    )
    expected = max(loss("s", "x_t") - loss("t", "x_t"), loss("t", "x_s") - loss("s", "x_s"), 0) / learned
    assert domain_gap(between, learned) == pytest.approx(expected)
    assert domain_gap(ExcessLoss(between.source), learned) == pytest.approx(max(between.source, 0) / learned)

    each, looks, effects = {}, {}, {}
    for name, strength in (("whole", 1.0), ("half", 0.5)):
        adapter = {module: update.scaled(strength) for module, update in style.items()}
        with_it = {on: predictions(models["t"], inputs[on], Silent(), "", adapter) for on in inputs}
        without, after = (
            {on: ((it[on].double() - inputs[on].noise.double()) ** 2).mean((1, 2, 3)) for on in inputs}
            for it in ({on: said("t", on) for on in inputs}, with_it)
        )
        each[name] = (without["y"] - after["y"]) / learned
        looks[name] = ((without["x_s"] - after["x_s"]) + (after["x_t"] - without["x_t"])) / learned
        known = {
            on: shares(losses(said("t", on), it.noise), losses(with_it[on], it.noise), learned)
            for on, it in inputs.items()
        }
        effects[name] = Effect(known["y"], known["x_s"] - known["x_t"], 0.25)
    found, of_reuse = gain(effects["whole"], effects["half"]), gain(effects["half"])
    assert found.share == pytest.approx((loss("t", "y") - loss("t", "y", adapter=True)) / learned, rel=1e-5)
    assert found.error == pytest.approx(float(each["whole"].numpy().std(ddof=1)) / math.sqrt(6), rel=1e-6)
    assert (found.damage, of_reuse.lead) == (0.25, None)
    assert found.look == pytest.approx(float(looks["whole"].mean()), rel=1e-6)
    differences = [(it["whole"] - it["half"]).numpy() for it in (each, looks)]
    assert found.lead is not None
    assert found.lead.value == pytest.approx(float(differences[0].mean() - differences[1].mean()), rel=1e-6)
    variances = [it.var(ddof=1) / len(it) for it in differences]
    assert found.lead.error == pytest.approx(math.sqrt(sum(variances)), rel=1e-6)

    moved, movement = said("t", "x_t", True) - said("t", "x_t"), said("s", "y", True) - said("s", "y")
    expected = mean_square(moved) / mean_square(movement)
    assert damage(said("t", "x_t", True), said("t", "x_t"), mean_square(movement)) == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_divided_by() -> None:
    assert domain_gap(ExcessLoss(1.0, 2.0), 0.0) == math.inf
    assert domain_gap(ExcessLoss(1.0, 2.0), -1.0) == math.inf
    assert domain_gap(ExcessLoss(-1.0, -2.0), 1.0) == 0
    none, half = shares(torch.ones(2), torch.zeros(2), 0.0), shares(torch.ones(1), torch.zeros(1), 2.0)
    assert gain(Effect(none, torch.zeros(2), 0.0)) == Gain(-math.inf, 0.0, 0.0, 0.0)
    assert gain(Effect(half, torch.zeros(1), 0.0)) == Gain(0.5, 0.0, 0.0, 0.0)
    assert damage(torch.ones(1), torch.zeros(1), 0.0) == math.inf
    assert damage(torch.ones(1), torch.ones(1), 0.0) == 0


def test_probes_are_spread_over_the_schedule_and_alike_for_all_models() -> None:
    one, other = probes(draw(1), ("a", "b", "c"), 4, 9), probes(draw(2), ("a", "b", "c"), 4, 9)
    assert sorted(one.times.tolist()) == pytest.approx([(place + 0.5) / 12 for place in range(12)])
    assert torch.equal(one.noise, other.noise)
    assert torch.equal(one.times, other.times)
    assert one.prompts == ("a", "b", "c") * 4
    assert torch.equal(one.clean[3:6], draw(1))
    assert not torch.equal(one.noise, probes(draw(1), ("a", "b", "c"), 4, 8).noise)


def test_what_is_no_number_is_told() -> None:
    with pytest.raises(NumericError, match="The samples hold NaN or infinity"):
        finite(torch.tensor([1.0, float("nan")]), "The samples")


def of(lead: float | None = None, error: float = 0.02, **gained: float) -> dict[str, Gain]:
    """Gains by name, where the last is so far ahead of reuse."""
    *_, last = gained
    return {
        name: Gain(share, lead=Lead(lead, error) if lead is not None and name == last else None)
        for name, share in gained.items()
    }


@pytest.mark.parametrize(
    ("gains", "gap", "name", "said", "judged"),
    [
        (of(reuse=0.7, imitate=0.9, lead=0.15), 0.25, "imitate", "imitate has a gain of 0.90; reuse has 0.70", True),
        (of(reuse=0.7, imitate=0.9, lead=-0.1), 0.1, "reuse", "once the look of the source's pictures is taken off", True),
        (of(reuse=0.7, imitate=0.9, lead=0.1, error=0.11), 0.1, "reuse", "Reuse is kept (0.70): imitate (0.90)", True),
        (of(reuse=0.7, imitate=0.69, lead=0.1), 0.1, "imitate", "imitate has a gain of 0.69; reuse has 0.70", True),
        (of(reuse=0.7, imitate=0.6, lead=-0.1), 0.1, "reuse", "Reuse has the best gain, 0.70", True),
        (of(reuse=0.1, imitate=0.2, lead=0.1), 0.1, None, "None transfers: the best, imitate, has a gain of 0.20", True),
        (of(half=0.4, imitate=0.6), 0.25, "imitate", "reuse is not possible", True),
        (of(reuse=0.3, imitate=0.9, lead=0.5), 2.1, "reuse", "the target's look; nothing better is known", False),
        (of(half=0.3, imitate=0.9), 2.1, "imitate", "brings the look of the source's pictures along", False),
        (of(half=0.3), 2.1, None, "reuse is not possible, and nothing is recommended", False),
        (of(reuse=-math.inf), math.inf, "reuse", "gains nothing on its own checkpoint", False),
    ],
)  # fmt: skip
def test_the_choice(gains: dict[str, Gain], gap: float, name: str | None, said: str, *, judged: bool) -> None:
    found = choose(gains, gap)
    assert (found.name, found.judged) == (name, judged)
    assert said in found.reason


def test_the_one_that_is_furthest_ahead_is_kept() -> None:
    gains = of(reuse=0.5, one=0.9, lead=0.1) | of(other=0.7, lead=0.2) | of(third=0.95, lead=0.3, error=0.4)
    assert choose(gains, 0.1).name == "other"


def test_nothing_is_trained_that_could_not_be_kept() -> None:
    assert may_win(of(reuse=0.9))
    assert not may_win(of(reuse=0.99))
    assert may_win(of(half=0.99))


@pytest.mark.parametrize(("share", "verdict"), [(0.75, "reproduces"), (0.74, "partly"), (0.24, "does not transfer")])
def test_the_verdict_follows_its_thresholds(share: float, verdict: str) -> None:
    found = Gain(share, 0.03, 0.5)
    assert found.verdict == verdict
    assert f"gain {share:.2f} ± 0.03; 0.50 of the movement without the trigger words" in found.text
    assert found.bare.startswith("Cannot be judged")
