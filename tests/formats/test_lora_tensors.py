"""The tensors of a low-rank update, read back, give the update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_transfer.errors import NumericError
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.writer import write_adapter

from .builders import random

EPSILON = {torch.float32: 1e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("kernel", [None, (1, 1), (3, 3), (1, 3)])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e6, 1e9])
def test_round_trip(dtype: torch.dtype, kernel: tuple[int, int] | None, size: float, tmp_path: Path) -> None:
    wide = 3 if kernel is None else 3 * kernel[0] * kernel[1]
    up, down = random(5, 2, seed=1) * size, random(2, wide, seed=2) * size
    tensors = lora_tensors("lora_unet_x", up, down, kernel, dtype)
    assert tensors["lora_unet_x.lora_up.weight"].shape == ((5, 2) if kernel is None else (5, 2, 1, 1))
    assert tensors["lora_unet_x.lora_down.weight"].shape == ((2, 3) if kernel is None else (2, 3, *kernel))
    for key, tensor in tensors.items():
        assert tensor.is_contiguous()
        assert torch.isfinite(tensor).all()
        assert tensor.dtype == dtype or (key.endswith("alpha") and tensor.dtype == torch.float32)
    write_adapter(tmp_path / "x", tensors, {})
    update = read_adapter(tmp_path / "x").groups["lora_unet_x"].update()
    assert update.factors is not None
    expected = up.double() @ down.double()
    assert (update.factors.up.double() @ update.factors.down.double() - expected).norm() <= 3 * EPSILON[
        dtype
    ] * expected.norm()


def test_alpha_is_the_rank_in_the_factors_dtype_where_that_is_exact() -> None:
    for rank, dtype, stored in [(8, torch.float16, torch.float16), (257, torch.bfloat16, torch.float32)]:
        alpha = lora_tensors("x", random(3, rank), random(rank, 3), None, dtype)["x.alpha"]
        assert (alpha.dtype, alpha.shape, float(alpha)) == (stored, (), rank)


def test_what_fits_is_not_rescaled() -> None:
    edge = torch.full((2, 2), 65504.0)
    tensors = lora_tensors("x", edge, edge, None, torch.float16)
    assert float(tensors["x.alpha"]) == 2.0
    assert torch.equal(tensors["x.lora_up.weight"].float(), edge)
    tensors = lora_tensors("x", edge * 1.01, edge, None, torch.float16)
    assert float(tensors["x.alpha"]) == 4.0


def test_strided_factors_and_zeros() -> None:
    up = random(2, 5).T
    assert torch.equal(lora_tensors("x", up, random(2, 3), None, torch.float32)["x.lora_up.weight"], up)
    zeros = lora_tensors("x", torch.zeros(3, 1), torch.zeros(1, 3), None, torch.float16)
    assert not zeros["x.lora_up.weight"].any()
    assert float(zeros["x.alpha"]) == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_named(value: float) -> None:
    with pytest.raises(NumericError, match="lora_unet_x"):
        lora_tensors("lora_unet_x", torch.full((2, 1), value), torch.ones(1, 2), None, torch.float16)
