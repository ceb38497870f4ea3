"""What float32 may be used for: the rule of FLOAT32_RATIO, and the bases that come out of it.

The yardstick is the error that rounding a weight to fp16 once makes in its subspaces, measured in float64: what is
computed from the rounded weight must add no more than that.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_transfer.architecture.module import Module, Position
from lib_transfer.conversion.decompositions import Wanted, decomposition
from lib_transfer.conversion.weights import Weight
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.subspace import Decomposition
from lib_transfer.storage.cache import Cache

from ..formats.builders import save
from .weights import SPECTRA, decayed, matrix, orthonormal, sine, spectrum, weight

SHAPES = [(48, 200), (200, 48), (80, 80)]
CPU = torch.device("cpu")


def svd(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dense and float64."""
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    return u, s, vh.T


def bases(decomposition: Decomposition, w: Tensor, k: int) -> tuple[Tensor, Tensor]:
    both = linalg.subspace(decomposition, w.float(), k)
    return matrix(both.left, k), matrix(both.right, k)


def unorthonormal(basis: Tensor) -> float:
    return float((basis.T @ basis - torch.eye(basis.shape[1], dtype=torch.float64)).abs().max())


def chosen(tmp_path: Path, w: Tensor, k: int, *, hopeful: bool = True) -> Decomposition:
    """What the engine's rule takes for this weight and subspace rank."""
    path = save(tmp_path / "w.safetensors", {"w": w})
    module = Module("w", "w", None, "linear", tuple(w.shape), None, None, Position("unet", "", "", 0, ""), (), None)
    with open_checkpoint(path) as checkpoint:
        asked = Weight(checkpoint, "0" * 64, module, CPU)
        return decomposition(asked, Wanted(None, k), Cache(tmp_path / "cache"), hopeful=hopeful)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SPECTRA)
def test_float32_is_better_than_fp16_rounding_wherever_it_is_let_through(kind: str, shape: tuple[int, int]) -> None:
    exact = decayed(kind, *shape)
    rounded = exact.half()
    true, values, true_right = svd(rounded)
    unrounded, _, unrounded_right = svd(exact)
    got = linalg.decompose(rounded.float(), torch.float32)
    allowed = linalg.float32_rank(got.singular_values)
    assert allowed >= 1
    for k in sorted({1, 2, allowed // 3, allowed // 2, allowed} - {0}):
        left, right = bases(got, rounded, k)
        for mine, want, before in ((left, true, unrounded), (right, true_right, unrounded_right)):
            assert unorthonormal(mine) <= 1e-5
            energy = float((mine.T @ (rounded.double() if mine is left else rounded.double().T)).square().sum())
            assert energy == pytest.approx(float(values[:k].square().sum()), rel=1e-5)
            # Where no gap separates the directions, the subspace is no property of the weight; all these have one.
            assert values[k - 1] / values[k] > 1 + 1e-3
            mine_exactly = torch.linalg.qr(mine)[0]
            assert sine(want[:, :k], mine_exactly) <= sine(before[:, :k], want[:, :k])


@pytest.mark.parametrize(
    ("kind", "shape"), [*((kind, shape) for kind in SPECTRA for shape in SHAPES), ("power", (320, 640))]
)
def test_float64_bases_are_orthonormal_and_capture_the_optimal_energy(kind: str, shape: tuple[int, int]) -> None:
    exact = decayed(kind, *shape)
    rounded = exact.half()
    true, values, true_right = svd(rounded)
    before, _, before_right = svd(exact)
    got = linalg.decompose(rounded.float(), torch.float64)
    # Kept in float32, the rows mix a direction with those that are a thousand times larger; a smaller one is noise.
    meaningful = int((values >= values[0] / 1000).sum())
    for k in sorted({1, meaningful // 4, meaningful // 2, meaningful} - {0}):
        left, right = bases(got, rounded, k)
        for mine, want, unrounded in ((left, true, before), (right, true_right, before_right)):
            assert unorthonormal(mine) <= 1e-5
            w = rounded.double() if mine is left else rounded.double().T
            assert float((mine.T @ w).square().sum()) == pytest.approx(float(values[:k].square().sum()), rel=1e-5)
            if k < min(shape) and values[k - 1] / values[k] > 1 + 1e-3:
                assert sine(want[:, :k], torch.linalg.qr(mine)[0]) <= sine(unrounded[:, :k], want[:, :k])


def test_without_a_gap_the_energy_is_captured_though_the_subspace_is_anyones(tmp_path: Path) -> None:
    values = torch.ones(64, dtype=torch.float64)
    values[32:] = 1e-2
    rounded = (weight(values, 64, 200) / 4).half()
    _, found, _ = svd(rounded)
    assert found[15] / found[16] < 1 + 1e-3
    got = chosen(tmp_path, rounded, 16)
    for basis in bases(got, rounded, 16):
        w = rounded.double() if basis.shape[0] == 64 else rounded.double().T
        assert unorthonormal(basis) <= 1e-5
        assert float((basis.T @ w).square().sum()) == pytest.approx(float(found[:16].square().sum()), rel=1e-5)


def test_where_float32_would_be_worse_than_the_rounding_the_rule_takes_float64(tmp_path: Path) -> None:
    # Eight directions at 1, 24 at a 250th of it, then nothing: a clear gap at k = 32, deep down.
    values = torch.cat([torch.ones(8), torch.full((24,), 4e-3), torch.full((64,), 1e-6)]).double()
    exact = weight(values, 96, 320)
    exact = exact / exact.abs().max()
    rounded = exact.half()
    true, _, true_right = svd(rounded)
    before, _, before_right = svd(exact)
    k = 32
    yard = (sine(before[:, :k], true[:, :k]), sine(before_right[:, :k], true_right[:, :k]))

    def errors(decomposition: Decomposition) -> list[float]:
        both = bases(decomposition, rounded, k)
        return [sine(t[:, :k], torch.linalg.qr(b)[0]) for t, b in zip((true, true_right), both, strict=True)]

    single = linalg.decompose(rounded.float(), torch.float32)
    assert any(unorthonormal(basis) > 1e-5 for basis in bases(single, rounded, k))
    assert max(errors(single)) > 1e-3
    for hopeful in (True, False):
        got = chosen(tmp_path, rounded, k, hopeful=hopeful)
        assert got.precision == torch.float64
        assert all(error <= allowed for error, allowed in zip(errors(got), yard, strict=True))
        assert all(unorthonormal(basis) <= 1e-5 for basis in bases(got, rounded, k))
    assert chosen(tmp_path, rounded, 8).precision == torch.float32


@pytest.mark.parametrize("kind", SPECTRA)
def test_the_rule_decides_by_the_wanted_rank_alone(kind: str, tmp_path: Path) -> None:
    rounded = decayed(kind, 64, 128).half()
    values = svd(rounded)[1]
    for k in (1, 4, 16, 60):
        ratio = float(values[0] / values[k - 1])
        want = torch.float32 if ratio < 6 else torch.float64
        if abs(ratio / 6 - 1) > 1e-3:
            assert [chosen(tmp_path, rounded, k).precision for _ in range(2)] == [want, want]  # cold, then warm


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_signs_follow_the_convention_whatever_the_solver_gives(
    shape: tuple[int, int], precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = decayed("gentle", *shape).float()
    first = linalg.decompose(w, precision)
    assert torch.equal(first.rows.abs().amax(dim=1), first.rows.amax(dim=1))
    solver = torch.linalg.eigh

    def negated(gram: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = solver(gram)
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", negated)
    again = linalg.decompose(w, precision)
    assert torch.equal(again.rows, first.rows)
    assert torch.equal(again.singular_values, first.singular_values)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_zero_weight_has_no_directions(precision: torch.dtype) -> None:
    got = linalg.decompose(torch.zeros(6, 10), precision)
    assert got.singular_values.tolist() == [0.0] * 6
    assert linalg.numerical_rank(got.singular_values) == 0
    assert linalg.rank_for_energy(got.singular_values, 0.99) == 0
    assert linalg.rank_for_energy(torch.zeros(0), 0.99) == 0


def test_a_weight_of_low_rank_has_no_more_directions_than_that() -> None:
    w = weight(spectrum("gentle", 5), 40, 60)
    got = linalg.decompose(w.float(), torch.float64)
    # The product is rounded to float32, so beyond the fifth there is only noise a millionth of the first at most.
    assert linalg.numerical_rank(got.singular_values) == 5
    assert linalg.rank_for_energy(got.singular_values, 1.0) == 5
    for basis, true in zip(bases(got, w, 5), (svd(w)[0], svd(w)[2]), strict=True):
        assert unorthonormal(basis) <= 1e-5
        assert sine(true[:, :5], torch.linalg.qr(basis)[0]) < 1e-5


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("w", [torch.eye(24), orthonormal(24, 24).float() * 3, torch.ones(24, 40)])
def test_repeated_singular_values(w: Tensor, precision: torch.dtype) -> None:
    got = linalg.decompose(w, precision)
    want = svd(w)[1]
    assert torch.allclose(got.singular_values.double(), want, rtol=1e-5, atol=1e-3 * float(want[0]))
    k = int((want > 1e-3 * want[0]).sum())
    assert int((got.singular_values > 1e-2 * want[0]).sum()) == k
    assert all(unorthonormal(basis) <= 1e-5 for basis in bases(got, w, k))


@pytest.mark.parametrize("kind", SPECTRA)
def test_the_energy_rank_is_the_smallest_that_holds_the_share(kind: str) -> None:
    values = spectrum(kind, 200)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        k = linalg.rank_for_energy(values.float(), share)
        held = [float(values[:j].square().sum() / values.square().sum()) for j in range(201)]
        # Directions below a thousandth of the largest one are left out, whatever share is asked for.
        assert held[k] >= share - 1e-7 or float(values[k]) <= 1e-3 * float(values[0])
        assert held[k - 1] < share + 1e-7
