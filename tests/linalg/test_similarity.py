"""Similarity of subspaces against its definition, and what chance makes of it."""

from __future__ import annotations

import pytest
import torch

from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.decomposition import decompose
from lib_transfer.linalg.subspace import StoredBasis

from .weights import matrix, near, normal, orthonormal, spectrum, weight


def phi_of(a: torch.Tensor, b: torch.Tensor) -> float:
    return linalg.similarity(linalg.Overlap(StoredBasis(a.T.float()), StoredBasis(b.T.float())))


@pytest.mark.parametrize("k", [1, 15, 24])
def test_phi_is_its_definition(k: int) -> None:
    a, b = orthonormal(40, k, seed=1), orthonormal(40, k, seed=2)
    assert phi_of(a, b) == pytest.approx(float((a.T @ b).square().sum()) / k, abs=1e-6)


@pytest.mark.parametrize("k", [9, 10, 11, 17, 19])
@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_phi_from_weights_is_that_of_their_dense_singular_vectors(shape: tuple[int, int], k: int) -> None:
    one = weight(spectrum("gentle", min(shape)), *shape)
    other = near(one, 0.5)
    dense = [torch.linalg.svd(w, full_matrices=False) for w in (one, other)]
    pairs = [linalg.subspace(decompose(w.float()), w.float(), k) for w in (one, other)]
    for side, index, overlap in zip(("left", "right"), (0, 2), linalg.overlaps(*pairs), strict=True):
        a, b = (d[index][:, :k] if index == 0 else d[index][:k].T for d in dense)
        want = float((a.T @ b).square().sum()) / k
        phi = linalg.similarity(overlap)
        assert phi == pytest.approx(want, abs=1e-5)
        assert 0.05 < want < 0.99
        assert matrix(getattr(pairs[0], side), k).shape == (shape[0] if side == "left" else shape[1], k)


def test_phi_is_1_for_equal_subspaces_and_0_for_orthogonal_ones() -> None:
    a = orthonormal(30, 20, seed=3)
    assert phi_of(a[:, :10], a[:, :10]) == pytest.approx(1, abs=1e-6)
    assert phi_of(a[:, :10], a[:, 10:]) == pytest.approx(0, abs=1e-6)
    assert phi_of(1.001 * a, a) == 1  # rounding must not make more than 1 of it


@pytest.mark.parametrize(("k", "dimension"), [(3, 60), (20, 60), (50, 60)])
def test_chance_alone_scores_k_in_n_and_is_corrected_to_nothing(k: int, dimension: int) -> None:
    phis = []
    for seed in range(40):
        a, b = (torch.linalg.qr(normal(dimension, k, seed=2 * seed + i))[0] for i in (0, 1))
        phis.append(phi_of(a, b))
    mean = sum(phis) / len(phis)
    assert mean == pytest.approx(k / dimension, abs=0.02)
    assert abs(linalg.chance_corrected(mean, k, dimension)) < 0.05
    assert linalg.chance_corrected(1.0, k, dimension) == pytest.approx(1.0)
    assert linalg.chance_corrected(0.9, k, dimension) == pytest.approx((0.9 - k / dimension) / (1 - k / dimension))


def test_whole_spaces_are_equal() -> None:
    assert linalg.chance_corrected(1.0, 60, 60) == 1.0
