"""Differences of a bias beside every algorithm, as ComfyUI's trainer and Black Forest Labs' control LoRAs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lib_transfer
from lib_transfer.conversion.publish import TransferResult
from tests import tiny

BLOCK = "double_blocks.0.img_attn."
KEYS = "model.diffusion_model."
OUT = "lora_unet_double_blocks_0_img_attn_"
SPLIT = "transformer.transformer_blocks.0.attn."

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux")
    source = {key: w for key, w in tiny.weights("flux-dev").items() if key.startswith(KEYS)}
    pairs = (("source", source), ("target", tiny.fine_tuned(source)))
    return {end: tiny.save(folder / f"{end}.safetensors", weights) for end, weights in pairs}


@pytest.fixture
def width(flux: dict[str, Path]) -> int:
    return int(load_file(flux["source"])[f"{KEYS}{BLOCK}proj.weight"].shape[0])


def run(tensors: Tensors, bases: dict[str, Path], folder: Path, method: str, **settings: Any) -> TransferResult:
    (folder / "out").mkdir(exist_ok=True)
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=folder / "cache", workers=1)
    adapter = tiny.save(folder / "style.safetensors", tensors)
    more = {"threshold": 0.0} if method == "rotation" else {}
    request = lib_transfer.request(
        adapter, source=bases["source"], target=bases["target"], method=method, runtime=runtime, **more, **settings
    )
    return lib_transfer.transfer(request, lib_transfer.Destination(folder=folder / "out"), runtime=runtime)


def inner(algorithm: str, n: int) -> Tensors:
    """A module of ``n`` by ``n`` in an algorithm."""
    lora = {"lora_up.weight": torch.randn(n, 2), "lora_down.weight": torch.randn(2, n)}
    made: dict[str, Tensors] = {
        "lora": {**lora, "alpha": torch.tensor(1.0)},
        "dora": {**lora, "dora_scale": torch.rand(n, 1) + 1},
        "loha": {
            f"hada_w{i}_{end}": torch.randn(n, 2).reshape((n, 2) if end == "a" else (2, n))
            for i in "12"
            for end in "ab"
        },
        "lokr": {"lokr_w1": torch.randn(4, 4), "lokr_w2": torch.randn(n // 4, n // 4)},
        "ia3": {"weight": torch.randn(n), "on_input": torch.tensor(0)},
        "full": {"diff": torch.randn(n, n)},
        "oft": {"oft_blocks": 0.1 * torch.randn(2, n // 2, n // 2), "alpha": torch.tensor(0.0)},
        "peft oft": {"oft_R.weight": 0.1 * torch.randn(2, n // 2 * (n // 2 - 1) // 2)},
        "set": {"set_weight": torch.randn(n, n)},
        "alone": {},
    }
    return made[algorithm]


@pytest.mark.parametrize("method", ["reuse", "rotation"])
@pytest.mark.parametrize(
    "algorithm", ["lora", "dora", "loha", "lokr", "ia3", "full", "oft", "peft oft", "set", "alone"]
)
def test_it_is_carried_beside_every_algorithm(
    algorithm: str, method: str, flux: dict[str, Path], width: int, tmp_path: Path
) -> None:
    """Times the strength, and with its part of the update's size. No sentence is about a program that runs no Flux."""
    bias = torch.arange(1.0, width + 1)
    tensors = {f"diffusion_model.{BLOCK}proj.{suffix}": t for suffix, t in inner(algorithm, width).items()}
    without = run(tensors, flux, tmp_path, method, strength=0.5) if tensors else None
    tensors |= {f"diffusion_model.{BLOCK}proj.diff_b": bias}
    result = run(tensors, flux, tmp_path, method, strength=0.5)
    assert result.path is not None and result.report is not None
    torch.testing.assert_close(load_file(result.path)[f"{OUT}proj.diff_b"], 0.5 * bias)
    (module,) = result.report.modules
    assert module.left == () and "A1111" not in result.report.to_text()
    weight = 0.0
    if without is not None and without.report is not None and without.report.modules[0].norm_before:
        weight = without.report.modules[0].norm_before
    assert module.norm_before == pytest.approx((weight**2 + float(bias.square().sum())) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("method", ["reuse", "rotation"])
def test_those_of_split_projections_are_joined_like_their_rows(
    method: str, flux: dict[str, Path], width: int, tmp_path: Path
) -> None:
    """The query with factors, the key with a difference of the bias alone, the value with nothing."""
    q, k = torch.randn(width), torch.randn(width)
    tensors = {f"{SPLIT}to_q.{suffix}": t for suffix, t in inner("lora", width).items()}
    tensors |= {f"{SPLIT}to_q.diff_b": q, f"{SPLIT}to_k.diff_b": k}
    result = run(tensors, flux, tmp_path, method)
    assert result.path is not None and result.report is not None
    out = load_file(result.path)
    torch.testing.assert_close(out[f"{OUT}qkv.diff_b"], torch.cat([q, k, torch.zeros(width)]))
    up = out[f"{OUT}qkv.lora_up.weight"]
    assert up[:width].any() and not up[width:].any()
    assert result.report.accounts.carried == len(tensors)
    assert result.report.totals.energy_kept == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("method", ["reuse", "rotation"])
def test_a_bias_of_the_up_factor_is_one_of_the_whole_weight(
    method: str, flux: dict[str, Path], width: int, tmp_path: Path
) -> None:
    """Black Forest Labs' ``lora_B.bias``, beside factors of the fused projections."""
    bias = torch.randn(3 * width)
    tensors = {
        f"{BLOCK}qkv.lora_B.weight": torch.randn(3 * width, 2),
        f"{BLOCK}qkv.lora_A.weight": torch.randn(2, width),
        f"{BLOCK}qkv.lora_B.bias": bias,
    }
    result = run(tensors, flux, tmp_path, method)
    assert result.path is not None and result.report is not None
    torch.testing.assert_close(load_file(result.path)[f"{OUT}qkv.diff_b"], bias)
    assert result.report.accounts.losses == ()


def test_one_that_fits_no_part_of_a_fused_weight_is_named_once(
    flux: dict[str, Path], width: int, tmp_path: Path
) -> None:
    name = f"diffusion_model.{BLOCK}qkv"
    tensors = {f"{name}.lora_up.weight": torch.randn(3 * width, 2), f"{name}.lora_down.weight": torch.randn(2, width)}
    result = run({**tensors, f"{name}.diff_b": torch.randn(width + 1)}, flux, tmp_path, "reuse")
    assert result.path is not None and result.report is not None
    assert not any(key.endswith("diff_b") for key in load_file(result.path))
    assert result.report.accounts.words == "1 bias"


def test_a_full_difference_beside_factors_is_named_without_a_program_of_another_base(
    flux: dict[str, Path], width: int, tmp_path: Path
) -> None:
    name = f"diffusion_model.{BLOCK}proj"
    tensors = {f"{name}.{suffix}": t for suffix, t in inner("lora", width).items()}
    difference = torch.randn(width, width)
    result = run({**tensors, f"{name}.diff": difference}, flux, tmp_path, "reuse")
    assert result.report is not None and result.report.accounts.words == "1 difference"
    (module,) = result.report.modules
    assert module.norm_before is not None
    kept = module.norm_before**2 / (module.norm_before**2 + float(difference.square().sum()))
    assert result.report.totals.energy_kept == pytest.approx(kept, rel=1e-4)
    assert result.report.totals.unmeasured == 0
    assert "A1111" not in result.report.to_text()
