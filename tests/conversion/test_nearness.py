"""How far apart two checkpoints are, against the same numbers computed over whole weights in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_transfer.conversion.nearness import SAMPLED, Nearness, nearness
from lib_transfer.library.base import open_base
from lib_transfer.storage.cache import Cache
from tests import tiny


def near(one: tiny.Weights, other: tiny.Weights, tmp_path: Path, **formats: torch.dtype) -> Nearness | None:
    paths = [
        tiny.save(tmp_path / f"{name}.safetensors", weights, formats.get(name))
        for name, weights in (("source", one), ("target", other))
    ]
    with open_base(paths[0], "a" * 64) as source, open_base(paths[1], "b" * 64) as target:
        found = nearness(source, target, Cache(tmp_path / "cache"))
        assert nearness(source, target, Cache(tmp_path / "cache")) == found
        return found


@pytest.mark.parametrize("name", ["sdxl", "anima", "z-image", "flux2-klein-4b", "wan-14b", "qwen-image"])
@pytest.mark.parametrize("amount", [0.01, 0.3])
def test_a_fine_tune_is_as_far_as_it_was_moved(name: str, amount: float, tmp_path: Path) -> None:
    weights = tiny.weights(name, width=16)
    found = near(weights, tiny.fine_tuned(weights, amount), tmp_path)
    assert found is not None and found.weights == SAMPLED
    # Noise of a share of the size of a weight: the distance is that share, the cosine 1 / sqrt(1 + share^2).
    assert found.distance == pytest.approx(amount, rel=0.2)
    assert found.cosine == pytest.approx((1 + amount**2) ** -0.5, abs=0.03)
    assert found.related and not found.equal and "are relatives" in found.told


def test_two_of_other_seeds_are_strangers(tmp_path: Path) -> None:
    found = near(tiny.weights("z-image", width=32), tiny.weights("z-image", width=32, seed=5), tmp_path)
    assert found is not None and not found.related and "not related" in found.told
    assert found.distance == pytest.approx(2**0.5, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_makes_no_other_model(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = tiny.weights("anima", width=16)
    found = near(weights, weights, tmp_path, target=dtype)
    assert found is not None and found.equal and "the same model" in found.told


def test_other_architectures_are_not_compared(tmp_path: Path) -> None:
    assert near(tiny.weights("sdxl"), tiny.weights("ssd-1b"), tmp_path) is None


def test_a_weight_without_numbers_is_passed_over(tmp_path: Path) -> None:
    weights = tiny.weights("anima", width=16)
    nothing = {key: torch.full_like(weight, torch.nan) for key, weight in weights.items()}
    assert near(weights, nothing, tmp_path) is None
