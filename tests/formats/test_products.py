"""LoHa and LoKr: deltas of every form against LyCORIS' forward pass, and against dense formulas in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lib_transfer.errors import NumericError

from .builders import random
from .trained import LAYERS, delta, error_of_forward, group_of, layer, trained

loha = pytest.importorskip("lycoris.modules.loha").LohaModule
lokr = pytest.importorskip("lycoris.modules.lokr").LokrModule

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("rank", [3, 16])
@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize("form", LAYERS)
def test_loha_is_what_lycoris_runs(
    form: str, tucker: bool, rank: int, alpha: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = layer(form)
    tensors, change = trained(loha("x", base, 1.0, rank, alpha, use_tucker=tucker), dtype)
    assert ("hada_t1" in tensors) == (tucker and form == "3x3")
    group = group_of(tensors, tmp_path)
    assert group.misfit(tuple(base.weight.shape)) is None
    update = group.update()
    assert error_of_forward(update, base, change) < 1e-5
    # As factors of rank 9; factors of rank 256 would be larger than the weight.
    assert (None if update.factors is None else update.factors.rank) == (9 if rank == 3 else None)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("LoConModule", {"lora_dim": 4}), ("LohaModule", {"lora_dim": 4}), ("LokrModule", {"lora_dim": 2, "factor": 4})],
)
@pytest.mark.parametrize("form", ["linear", "3x3"])
def test_rs_lora_of_lycoris_is_in_its_alpha(form: str, kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    base = layer(form)
    made = getattr(pytest.importorskip("lycoris.modules"), kind)("x", base, 1.0, alpha=1.0, rs_lora=True, **options)
    tensors, change = trained(made)
    assert float(tensors["alpha"]) == pytest.approx(options["lora_dim"] ** 0.5)
    assert error_of_forward(group_of(tensors, tmp_path).update(), base, change) < 1e-5


LOKR: dict[str, dict[str, Any]] = {
    "one whole, one factored": {"lora_dim": 2, "factor": 4},
    "both factored": {"lora_dim": 2, "factor": 6, "decompose_both": True},
    "both whole": {"lora_dim": 100_000, "factor": 4, "full_matrix": True},
    "core": {"lora_dim": 2, "factor": 4, "use_tucker": True},
    "both factored, core": {"lora_dim": 1, "factor": 6, "decompose_both": True, "use_tucker": True},
    "unbalanced": {"lora_dim": 2, "factor": 4, "unbalanced_factorization": True},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [0.5, 3.0])
@pytest.mark.parametrize("options", LOKR.values(), ids=LOKR.keys())
@pytest.mark.parametrize("form", LAYERS)
def test_lokr_is_what_lycoris_runs(
    form: str, options: dict[str, Any], alpha: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = layer(form)
    made = lokr("x", base, 1.0, alpha=alpha, **options)
    tensors, change = trained(made, dtype)
    assert ("lokr_w2" in tensors) == made.use_w2
    assert ("lokr_w1_a" in tensors) == (not made.use_w1)
    assert ("lokr_t2" in tensors) == bool(options.get("use_tucker") and form == "3x3")
    group = group_of(tensors, tmp_path)
    assert group.misfit(tuple(base.weight.shape)) is None
    assert error_of_forward(group.update(), base, change) < 1e-5


def test_the_alpha_of_a_whole_lokr_means_nothing(tmp_path: Path) -> None:
    tensors = {"lokr_w1": random(2, 3, seed=1), "lokr_w2": random(4, 5, seed=2)}
    expected = torch.kron(*(t.double() for t in tensors.values()))
    for alpha in (0.0, 1e10, math.inf):
        update = group_of({**tensors, "alpha": torch.tensor(alpha)}, tmp_path).update()
        assert relative(delta(update), expected) < 1e-6
        assert update.notes == ()
    update = group_of({**tensors, "scale": torch.tensor(0.5), "scalar": torch.tensor(3.0)}, tmp_path).update()
    assert relative(delta(update), expected * 1.5) < 1e-6


def test_lokr_divides_alpha_by_the_rank_of_the_second_half_if_it_has_one(tmp_path: Path) -> None:
    first = {"lokr_w1_a": random(4, 2, seed=1), "lokr_w1_b": random(2, 4, seed=2)}
    second = {"lokr_w2_a": random(6, 3, seed=3), "lokr_w2_b": random(3, 6, seed=4)}
    w1, w2 = (a.double() @ b.double() for a, b in (first.values(), second.values()))
    alpha = {"alpha": torch.tensor(1.0)}
    both = group_of({**first, **second, **alpha}, tmp_path).update()
    assert relative(delta(both), torch.kron(w1, w2) / 3) < 1e-6
    one = group_of({**first, "lokr_w2": w2.float(), **alpha}, tmp_path).update()
    assert relative(delta(one), torch.kron(w1, w2) / 2) < 1e-6


def test_loha_with_factors_of_four_dimensions(tmp_path: Path) -> None:
    """OneTrainer stores a convolution's factors so."""
    a1, a2, b1, b2 = random(8, 2, seed=1), random(8, 2, seed=2), random(2, 4, 3, 3, seed=3), random(2, 4, 3, 3, seed=4)
    tensors = {"hada_w1_a": a1[..., None, None], "hada_w2_a": a2[..., None, None], "hada_w1_b": b1, "hada_w2_b": b2}
    update = group_of({**tensors, "alpha": torch.tensor(5.0)}, tmp_path).update()
    halves = [torch.einsum("or,rikl->oikl", a.double(), b.double()) for a, b in ((a1, b1), (a2, b2))]
    assert relative(delta(update), (halves[0] * halves[1] * 2.5).flatten(1)) < 1e-6


@pytest.mark.parametrize("form", ["linear", "3x3"])
def test_the_update_of_another_weight_is_told_before_it_is_formed(form: str, tmp_path: Path) -> None:
    base = layer(form)
    for made in (loha("x", base, 1.0, 3, 1.0), lokr("x", base, 1.0, 2, 1.0, factor=4)):
        tensors, _ = trained(made)
        told = group_of(tensors, tmp_path).misfit((37, *base.weight.shape[1:]))
        assert told is not None
        assert "37x24" in told
    huge = group_of({"lokr_w1": random(4000, 4000), "lokr_w2": random(300, 300)}, tmp_path)
    assert "1200000x1200000" in str(huge.misfit((320, 320)))


@pytest.mark.parametrize("rank", [1, 8])
def test_a_product_beyond_float32_is_an_error(rank: int, tmp_path: Path) -> None:
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    shapes = ((9, rank), (rank, 9)) * 2
    tensors = {name: torch.full(shape, 1e30) for name, shape in zip(names, shapes, strict=True)}
    with pytest.raises(NumericError, match="lora_unet_x"):
        group_of(tensors, tmp_path).update()
    with pytest.raises(NumericError, match="lora_unet_x"):
        group_of({"lokr_w1": torch.full((3, 3), 1e30), "lokr_w2": torch.full((3, 3), 1e30)}, tmp_path).update()


def test_a_whole_lokr_is_dense_and_a_small_one_is_not(tmp_path: Path) -> None:
    whole = {"lokr_w1": random(4, 4, seed=1), "lokr_w2": random(32, 32, seed=2)}
    assert group_of(whole, tmp_path).update().weight is not None
    small = {"lokr_w1": random(4, 4, seed=1), "lokr_w2_a": random(32, 2, seed=2), "lokr_w2_b": random(2, 32, seed=3)}
    update = group_of(small, tmp_path).update()
    assert update.factors is not None
    assert update.factors.up.shape == (128, 8)
    assert update.rank is None
