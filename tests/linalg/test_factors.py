"""Thin factors against the dense matrices that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib_transfer.linalg import factors
from lib_transfer.linalg.factors import Factors

from .weights import normal, relative

SHAPES = [(30, 50, 6), (50, 30, 6), (20, 20, 20), (9, 40, 12), (40, 9, 12), (7, 7, 1)]


def random(out: int, into: int, rank: int, seed: int = 0) -> Factors:
    return Factors(normal(out, rank, seed=seed).float(), normal(rank, into, seed=seed + 1).float())


def dense(f: Factors) -> Tensor:
    return f.up.double() @ f.down.double()


@pytest.mark.parametrize("shape", SHAPES)
def test_thin_svd(shape: tuple[int, int, int]) -> None:
    update = random(*shape)
    u, s, vh = factors.thin_svd(update)
    assert u.shape[1] == s.shape[0] == vh.shape[0] <= min(shape)
    assert relative((u * s) @ vh, dense(update)) < 1e-5
    assert torch.allclose(s.double(), torch.linalg.svdvals(dense(update))[: len(s)], rtol=1e-5, atol=1e-5)
    for basis in (u, vh.T):
        assert float((basis.T @ basis - torch.eye(len(s))).abs().max()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 6, 15, None])
def test_balanced_is_the_best_approximation_of_its_rank(rank: int | None, shape: tuple[int, int, int]) -> None:
    update = random(*shape)
    got = factors.balanced(update, rank)
    out, into, own = shape
    wanted = min(own, out, into) if rank is None else min(rank, out, into)
    assert got.rank == wanted
    assert got.shape == (out, into)
    u, s, vh = torch.linalg.svd(dense(update), full_matrices=False)
    best = (u[:, :wanted] * s[:wanted]) @ vh[:wanted]
    assert relative(dense(got), best) < 1e-5
    # Split evenly: both factors' Gram matrices are the singular values, and what the update lacks is exactly zero.
    for gram in (got.up.T @ got.up, got.down @ got.down.T):
        assert torch.allclose(gram.double(), torch.diag(s[:wanted]), atol=1e-5 * float(s[0]))
    own = min(own, out, into)
    assert not got.up[:, own:].any()
    assert not got.down[own:].any()


def test_balanced_of_nothing_is_nothing() -> None:
    for update in (Factors(torch.zeros(5, 2), torch.zeros(2, 7)), Factors(torch.ones(5, 2), torch.zeros(2, 7))):
        got = factors.balanced(update, 2)
        assert got.shape == (5, 7)
        assert got.rank == 2
        assert not dense(got).any()


def test_balanced_of_repeated_singular_values() -> None:
    update = Factors(torch.eye(64) * 2, torch.eye(64))
    assert relative(dense(factors.balanced(update)), 2 * torch.eye(64).double()) < 1e-6


@settings(max_examples=50)
@given(
    out=st.integers(1, 12),
    into=st.integers(1, 12),
    one=st.integers(1, 6),
    two=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_products_and_sums_are_those_of_the_dense_matrices(out: int, into: int, one: int, two: int, seed: int) -> None:
    a, b = random(out, into, one, seed), random(out, into, two, seed + 50)
    full_a, full_b = dense(a), dense(b)
    size = float(full_a.norm() * full_b.norm())
    assert factors.inner(a, b) == pytest.approx(float((full_a * full_b).sum()), abs=1e-12 * size)
    assert factors.norm(a) == pytest.approx(float(full_a.norm()), rel=1e-9)
    assert factors.distance(a, b) == pytest.approx(float((full_a - full_b).norm()), rel=1e-6, abs=1e-7)
    assert relative(dense(factors.add(a, b, a)), 2 * full_a + full_b) < 1e-6 * (1 + size)
    assert relative(dense(factors.scale(a, -2.5)), -2.5 * full_a) < 1e-6


@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-5])
def test_the_distance_of_two_nearly_equal_updates_survives_the_cancellation(apart: float) -> None:
    a = random(200, 300, 8)
    moved = Factors((a.up.double() * (1 + apart)).float(), a.down)
    truth = float((dense(moved) - dense(a)).norm())
    assert factors.distance(a, moved) == pytest.approx(truth, rel=1e-2)
    assert factors.distance(a, a) <= 1e-7 * factors.norm(a)
    assert not math.isnan(factors.distance(a, a))
