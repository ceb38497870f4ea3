"""The models of the quality benchmark run as the product runs them, and what its controls are made of is what it says."""

from __future__ import annotations

import pytest
import torch

from lib_transfer.linalg.factors import Factors
from lib_transfer.models import applied
from lib_transfer.update import Update
from tests.benchmarks.quality.adapters import randomised
from tests.benchmarks.quality.family import LAYOUTS, Base


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_on_any_of_its_modules_changes_what_a_model_says(layout: str) -> None:
    torch.manual_seed(0)
    base = Base(layout)
    for weight in base.network.parameters():  # none is zero, so that nothing is without effect
        torch.nn.init.normal_(weight, std=0.1)
    model = base.running()
    noised, times = torch.randn(2, *model.shape), torch.tensor([0.3, 0.7])
    before = model.noise(noised, times, ("red disc", ""))
    assert base.adaptable()
    for name, (module, _) in base.adaptable().items():
        assert name in model.places
        out, into = module.matrix_shape
        with applied(model.places, {name: Update(factors=Factors(torch.randn(out, 2), torch.randn(2, into)))}):
            assert not torch.equal(model.noise(noised, times, ("red disc", "")), before), name
    assert torch.equal(model.noise(noised, times, ("red disc", "")), before)


def test_a_random_lora_has_the_rank_and_the_norm_of_the_one_in_whose_place_it_is() -> None:
    generator = torch.Generator().manual_seed(1)
    given = {"a": Update(factors=Factors(torch.randn(6, 2), torch.randn(2, 5)), rank=2)}
    made = randomised(given, generator)["a"]
    assert made.factors is not None
    assert [tuple(factor.shape) for factor in made.factors] == [(6, 2), (2, 5)]
    assert made.norm() == pytest.approx(given["a"].norm(), rel=1e-5)
    both = torch.stack([made.matrix().flatten(), given["a"].matrix().flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.9
