"""What the settings of a transfer do to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lib_transfer
from lib_transfer.errors import MismatchError
from tests import tiny
from tests.transfer import hosts
from tests.transfer.test_formulas import bases, formula, matrix, places, similarity, subspace_rank

STEM = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_"
MODULES = {f"{STEM}{leaf}": (16, 16) for leaf in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn1_to_out_0")}


@pytest.fixture
def style(tmp_path: Path) -> Path:
    tensors: tiny.Weights = {}
    for number, (name, shape) in enumerate(MODULES.items()):
        tensors |= tiny.factors(name, shape, 4, seed=number)
    return tiny.save(tmp_path / "style.safetensors", tensors)


def _similarities(files: tiny.Files, energy: float) -> dict[str, float]:
    where, found = places("sd1"), {}
    for name in MODULES:
        key, rows, _ = where[name]
        source, target = (matrix(files, f"sd1-{end}", key, rows) for end in ("source", "target"))
        k = subspace_rank(source, energy)
        left, right = zip(bases(source, k), bases(target, k), strict=True)
        found[name] = min(similarity(*left), similarity(*right))
    return found


@pytest.mark.parametrize("below", ["drop", "copy"])
def test_threshold(below: str, style: Path, files: tiny.Files, transfer: Any) -> None:
    similar = _similarities(files, 0.9)
    middle = sorted(similar.values())[1:3]
    threshold = sum(middle) / 2
    result = transfer(style, "sd1-source", "sd1-target", energy=0.9, threshold=threshold, below=below)
    got, given = hosts.read(result.path).deltas(), hosts.read(style).deltas()
    under = {name for name, phi in similar.items() if phi < threshold}
    assert len(under) == 2
    decisions = {m.name: m.decision for m in result.report.modules}
    for name in MODULES:
        if name not in under:
            assert decisions[name] == "transferred"
        elif below == "drop":
            assert decisions[name] == "below threshold"
            assert name not in got
        else:
            assert decisions[name] == "copied"
            assert (got[name] - given[name]).norm() <= 1e-5 * given[name].norm()
    lost = sum(float(given[n].square().sum()) for n in under) / sum(float(d.square().sum()) for d in given.values())
    kept = result.report.totals.energy_kept
    assert kept == pytest.approx(1 - lost if below == "drop" else 1.0, abs=1e-4)
    low = [m for m in result.report.modules if m.decision == "below threshold"]
    assert all(m.norm_before and m.norm_after is None for m in low)


def test_a_fixed_subspace_rank_is_not_an_energy(style: Path, files: tiny.Files, transfer: Any) -> None:
    fixed = transfer(style, "sd1-source", "sd1-target", subspace_rank=2, threshold=0.0, method="lora-x", rank="full")
    assert {m.similarity.rank for m in fixed.report.modules} == {2}
    given, where = hosts.read(style).deltas(), places("sd1")
    for name, delta in hosts.read(fixed.path).deltas().items():
        source, target = (matrix(files, f"sd1-{end}", where[name][0], None) for end in ("source", "target"))
        expected = formula("lora-x", given[name], bases(source, 2), bases(target, 2))
        assert (delta - expected).norm() <= 1e-4 * given[name].norm()
    # More than the weight has: capped.
    capped = transfer(style, "sd1-source", "sd1-target", subspace_rank=320, threshold=0.0)
    ranks = [m.similarity.rank for m in capped.report.modules]
    assert set(ranks) <= {15, 16}  # directions below a thousandth of the largest are left out
    with pytest.raises(lib_transfer.TransferError, match="Both an energy"):
        transfer(style, "sd1-source", "sd1-target", subspace_rank=2, energy=0.5)


@pytest.mark.parametrize(("rank", "written"), [("same", 4), (2, 2), (9, 9), ("full", 8), ("16", 16), (4096, 16)])
def test_rank(rank: str | int, written: int, style: Path, files: tiny.Files, transfer: Any) -> None:
    """ProLoRA doubles the rank; what is kept is the best approximation, and everything of it with ``full``."""
    result = transfer(style, "sd1-source", "sd1-target", method="prolora", energy=0.9, threshold=0.0, rank=rank)
    out, given, where = hosts.read(result.path), hosts.read(style).deltas(), places("sd1")
    for name in MODULES:
        assert out.tensors[f"{name}.lora_down.weight"].shape[0] == written
        source, target = (matrix(files, f"sd1-{end}", where[name][0], None) for end in ("source", "target"))
        k = subspace_rank(source, 0.9)
        exact = formula("prolora", given[name], bases(source, k), bases(target, k))
        best = torch.linalg.svdvals(exact)[written:].norm()
        assert (out.deltas()[name] - exact).norm() <= best + 1e-4 * exact.norm()
    assert out.metadata["ss_network_dim"] == str(written)


@pytest.mark.parametrize("strength", [0.5, -1.0, 2.0])
@pytest.mark.parametrize("method", ["reuse", "rotation", "prolora"])
def test_strength_is_a_factor(strength: float, method: str, style: Path, transfer: Any) -> None:
    one, other = (
        hosts.read(transfer(style, "sd1-source", "sd1-target", method=method, strength=s).path).deltas()
        for s in (1.0, strength)
    )
    for name, delta in one.items():
        assert (other[name] - strength * delta).norm() <= 1e-5 * delta.norm()


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32", None])
def test_dtype(dtype: str | None, style: Path, transfer: Any) -> None:
    settings = {} if dtype is None else {"dtype": dtype}
    out = hosts.read(transfer(style, "sd1-source", "sd1-target", method="reuse", **settings).path)
    expected = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, None: torch.float32}[dtype]
    assert {t.dtype for t in out.tensors.values()} == {expected}
    given = hosts.read(style).deltas()
    limit = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}[expected]
    assert all((delta - given[name]).norm() <= limit * given[name].norm() for name, delta in out.deltas().items())


@pytest.mark.parametrize("method", ["reuse", "rotation"])
def test_the_same_base_gives_the_input_back(method: str, style: Path, transfer: Any) -> None:
    result = transfer(style, "sd1-source", "sd1-source", method=method)
    given = hosts.read(style).deltas()
    for name, delta in hosts.read(result.path).deltas().items():
        assert (delta - given[name]).norm() <= 1e-5 * given[name].norm()
    other = "the LoRA's own update" if method == "reuse" else "plain reuse"
    assert f"What was carried is the same as {other}." in result.report.verdict


class TestUnequalWidths:
    """A target of other widths: nothing corresponds, unless lora-x is forced."""

    @pytest.fixture
    def wide(self, tmp_path: Path) -> tuple[Path, tiny.Weights]:
        made = {key: w.half().float() for key, w in tiny.weights("sd1", width=16, seed=9).items()}
        return tiny.save(tmp_path / "wide.safetensors", made, torch.float16), made

    def test_refused_as_a_whole_where_the_target_stands_for_the_source(
        self, style: Path, wide: Any, transfer: Any
    ) -> None:
        with pytest.raises(MismatchError, match="16x16, and there it is 32x32"):
            transfer(style, "sd1-source", wide[0], method="reuse")

    @pytest.mark.parametrize("method", ["rotation", "prolora", "lora-x"])
    def test_refused_per_module(self, method: str, style: Path, wide: Any, transfer: Any) -> None:
        result = transfer(style, "sd1-source", wide[0], method=method)
        assert (result.path, result.status) == (None, "nothing carried")
        assert {m.decision for m in result.report.modules} == {"unsupported"}
        assert all("16x16" in m.reason and "32x32" in m.reason for m in result.report.modules)
        assert result.report.verdict.startswith("Nothing")

    def test_forced(self, style: Path, wide: Any, files: tiny.Files, transfer: Any) -> None:
        result = transfer(style, "sd1-source", wide[0], method="lora-x", force=True, subspace_rank=3, rank="full")
        assert all("forced" in m.reason and m.similarity.left is None for m in result.report.modules)
        assert "forced" in result.report.to_text()
        got, given, where = hosts.read(result.path).deltas(), hosts.read(style).deltas(), places("sd1")
        for name in MODULES:
            key = where[name][0]
            (u_s, v_s), (u_t, v_t) = bases(files.weight("sd1-source", key), 3), bases(wide[1][key].double(), 3)
            # Signs of singular vectors are free; the convention fixes those of the short side's, the left one here.
            for left, right in ((u_s, v_s), (u_t, v_t)):
                signs = torch.sign(left.gather(0, left.abs().argmax(0, keepdim=True)))
                left.mul_(signs)
                right.mul_(signs)
            expected = u_t @ (u_s.T @ given[name] @ v_s) @ v_t.T
            assert (got[name] - expected).norm() <= 1e-4 * expected.norm()

    def test_only_the_modules_that_differ(self, files: tiny.Files, transfer: Any, tmp_path: Path) -> None:
        """As when only the text's width differs: the rest is transferred."""
        key = f"{tiny.UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
        target = {**files.tensors["sd1-target"], key: torch.randn(16, 40)}
        name = f"{STEM}attn2_to_k"
        tensors = {**tiny.factors(name, (16, 24)), **tiny.factors(f"{STEM}attn1_to_q", (16, 16))}
        path = tiny.save(tmp_path / "style.safetensors", tensors)
        result = transfer(path, "sd1-source", tiny.save(tmp_path / "other.safetensors", target, torch.float16))
        assert {m.name: m.decision for m in result.report.modules} == {
            name: "unsupported",
            f"{STEM}attn1_to_q": "transferred",
        }
        assert set(hosts.read(result.path).names) == {f"{STEM}attn1_to_q"}


def test_a_pruned_target(files: tiny.Files, transfer: Any, tmp_path: Path) -> None:
    kept, gone = f"{STEM}attn1_to_q", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    path = tiny.save(tmp_path / "style.safetensors", {**tiny.factors(kept, (16, 16)), **tiny.factors(gone, (32, 32))})
    for method in ("reuse", "rotation"):
        result = transfer(path, "sd1-source", "sd1-pruned", method=method)
        decisions = {m.name: m.decision for m in result.report.modules}
        assert set(hosts.read(result.path).names) == {kept}
        if method == "rotation":
            assert decisions[gone] == "no counterpart"
            assert result.report.totals.written == 1
        assert gone in result.report.to_text()


@pytest.mark.parametrize(
    ("adapter", "source", "target", "named"),
    [
        ("sd1", "sdxl-source", "sdxl-target", ("Stable Diffusion 1.x", "Stable Diffusion XL")),
        ("sdxl", "sd1-source", "sd1-target", ("Stable Diffusion XL", "Stable Diffusion 1.x")),
        ("sd1", "sd1-source", "sdxl-target", ("Stable Diffusion 1.x", "Stable Diffusion XL")),
        ("sdxl", "sdxl-source", "sd1-target", ("Stable Diffusion XL", "Stable Diffusion 1.x")),
    ],
)
@pytest.mark.parametrize("method", ["reuse", "rotation"])
def test_the_wrong_architecture_is_named(
    method: str, adapter: str, source: str, target: str, named: tuple[str, str], transfer: Any, tmp_path: Path
) -> None:
    made = {
        "sd1": {
            "lora_te_text_model_encoder_layers_0_mlp_fc1": (96, 24),
            "lora_unet_down_blocks_0_attentions_0_proj_in": (8, 8),
        },
        "sdxl": {
            "lora_unet_input_blocks_7_1_proj_in": (32, 32),
            "lora_te2_text_model_encoder_layers_20_mlp_fc1": (128, 32),
        },
    }
    tensors = {key: t for name, shape in made[adapter].items() for key, t in tiny.factors(name, shape).items()}
    path = tiny.save(tmp_path / "style.safetensors", tensors)
    with pytest.raises(lib_transfer.TransferError) as caught:
        transfer(path, source, target, method=method)
    assert all(title in caught.value.message for title in named), caught.value.message
    assert caught.value.exit_code == 2
    assert list((tmp_path / "out").iterdir()) == []
