"""Decompositions in float32 against those in float64.

The yardstick is the error that rounding a weight to fp16 (or bf16) once makes in its subspaces, measured in float64: what is
computed from the rounded weight must add a small part of that at most, for every subspace rank.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib_transfer.linalg import decomposition as decomposition_module
from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.decomposition import (
    Decomposition,
    decompose,
    energy_rank,
    numerical_rank,
    rank_for_energy,
)

from .weights import SPECTRA, decayed, matrix, orthonormal, sine, spectrum, weight

SHAPES = [(48, 200), (200, 48), (80, 80), (5, 9), (1, 7), (3, 3)]
LARGE = [(320, 640), (640, 320), (320, 320)]


def svd(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dense and float64."""
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    return u, s, vh.T


def bases(decomposition: Decomposition, w: Tensor, k: int) -> tuple[Tensor, Tensor]:
    both = linalg.subspace(decomposition, w.float(), k)
    return matrix(both.left, k), matrix(both.right, k)


def unorthonormal(basis: Tensor) -> float:
    return float((basis.T @ basis - torch.eye(basis.shape[1], dtype=torch.float64)).abs().max())


def check(exact: Tensor, dtype: torch.dtype) -> None:
    """Hold the decomposition of ``exact``, once rounded, against that in float64."""
    rounded = exact.to(dtype)
    (true, values, true_right), (before, _, before_right) = svd(rounded), svd(exact)
    got = decompose(rounded.float())
    assert torch.all(got.singular_values[:-1] >= got.singular_values[1:])
    meaningful = int((values > values[0] / 1000).sum())
    assert abs(numerical_rank(got.singular_values) - meaningful) <= 1
    meaningful = min(meaningful, numerical_rank(got.singular_values))
    assert torch.allclose(got.singular_values[:meaningful].double(), values[:meaningful], rtol=2e-5)
    assert unorthonormal(got.rows.T.double()) <= 1e-5
    for k in sorted({1, meaningful // 3, meaningful // 2, 4 * meaningful // 5, meaningful} - {0}):
        left, right = bases(got, rounded, k)
        for mine, want, unrounded in ((left, true, before), (right, true_right, before_right)):
            # The long side's directions are divided by their singular values, and the rounding of the short side's with them.
            assert unorthonormal(mine) <= 1.2e-4
            w = rounded.double() if mine is left else rounded.double().T
            assert float((mine.T @ w).square().sum()) == pytest.approx(float(values[:k].square().sum()), rel=1e-5)
            # Where no gap separates the directions, the subspace is no property of the weight.
            if k < min(exact.shape) and values[k - 1] / values[k] > 1 + 1e-3:
                error = sine(want[:, :k], torch.linalg.qr(mine)[0])
                assert error <= 0.1 * sine(unrounded[:, :k], want[:, :k])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SPECTRA)
def test_small_weights(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    check(decayed(kind, *shape), dtype)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("kind", SPECTRA)
def test_large_weights(kind: str, shape: tuple[int, int]) -> None:
    check(decayed(kind, *shape), torch.float16)


def test_a_gap_deep_down() -> None:
    # Eight directions at 1, 24 at a 250th of it, then nothing: a clear gap at k = 32.
    values = torch.cat([torch.ones(8), torch.full((24,), 4e-3), torch.full((64,), 1e-6)]).double()
    exact = weight(values, 96, 320)
    check(exact / exact.abs().max(), torch.float16)


def test_without_a_gap_the_energy_is_captured_though_the_subspace_is_anyones() -> None:
    values = torch.ones(64, dtype=torch.float64)
    values[32:] = 1e-2
    rounded = (weight(values, 64, 200) / 4).half()
    _, found, _ = svd(rounded)
    assert found[15] / found[16] < 1 + 1e-3
    got = decompose(rounded.float())
    for basis in bases(got, rounded, 16):
        w = rounded.double() if basis.shape[0] == 64 else rounded.double().T
        assert unorthonormal(basis) <= 1e-5
        assert float((basis.T @ w).square().sum()) == pytest.approx(float(found[:16].square().sum()), rel=1e-5)


@pytest.mark.parametrize("part", ["_separated", "_turned"])
def test_one_gram_matrix_alone_would_not_do(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the bounds do not hold for some weight: what is tested here is the tests above."""
    without = {
        "_separated": lambda w, values, vectors, smallest: (values, vectors),
        "_turned": lambda strong, weak, angles: (strong, weak),
    }
    monkeypatch.setattr(decomposition_module, part, without[part])
    with pytest.raises(AssertionError):
        for kind in SPECTRA:
            check(decayed(kind, 80, 80), torch.float16)


@pytest.mark.parametrize("shape", SHAPES)
def test_signs_follow_the_convention_whatever_the_solver_gives(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    w = decayed("gentle", *shape).float()
    first = decompose(w)
    assert torch.equal(first.rows.abs().amax(dim=1), first.rows.amax(dim=1))
    solver = torch.linalg.eigh

    def negated(gram: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = solver(gram)
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", negated)
    again = decompose(w)
    assert torch.equal(again.rows, first.rows)
    assert torch.equal(again.singular_values, first.singular_values)


def test_a_zero_weight_has_no_directions() -> None:
    got = decompose(torch.zeros(6, 10))
    assert got.singular_values.tolist() == [0.0] * 6
    assert numerical_rank(got.singular_values) == 0
    assert rank_for_energy(got.singular_values, 0.99) == 0
    assert rank_for_energy(torch.zeros(0), 0.99) == 0


@pytest.mark.parametrize("size", [1, 1e-18, 1e15])
def test_a_weight_of_low_rank_has_no_more_directions_than_that(size: float) -> None:
    w = size * weight(spectrum("gentle", 5), 40, 60)
    got = decompose(w.float())
    # The product is rounded to float32, so beyond the fifth there is only noise a millionth of the first at most.
    assert numerical_rank(got.singular_values) == 5
    assert rank_for_energy(got.singular_values, 1.0) == 5
    for basis, true in zip(bases(got, w, 5), (svd(w)[0], svd(w)[2]), strict=True):
        assert unorthonormal(basis) <= 1e-5
        assert sine(true[:, :5], torch.linalg.qr(basis)[0]) < 1e-5


@pytest.mark.parametrize("w", [torch.eye(24), orthonormal(24, 24).float() * 3, torch.ones(24, 40)])
def test_repeated_singular_values(w: Tensor) -> None:
    got = decompose(w)
    want = svd(w)[1]
    assert torch.allclose(got.singular_values.double(), want, rtol=1e-5, atol=1e-3 * float(want[0]))
    k = int((want > 1e-3 * want[0]).sum())
    assert int((got.singular_values > 1e-2 * want[0]).sum()) == k
    assert all(unorthonormal(basis) <= 1e-5 for basis in bases(got, w, k))


@pytest.mark.parametrize("kind", SPECTRA)
def test_the_energy_rank_is_the_smallest_that_holds_the_share(kind: str) -> None:
    values = spectrum(kind, 200)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        k = rank_for_energy(values.float(), share)
        assert k <= energy_rank(values.float(), share)
        held = [float(values[:j].square().sum() / values.square().sum()) for j in range(201)]
        # Directions below a thousandth of the largest one are left out, whatever share is asked for.
        assert held[k] >= share - 1e-7 or k == numerical_rank(values.float())
        assert held[k - 1] < share + 1e-7
