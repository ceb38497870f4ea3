"""Ridge regression from moments, against numpy's least squares on the augmented system, and its best low-rank form."""

from __future__ import annotations

import numpy as np
import torch

from lib_transfer.linalg.ridge import RIDGES, Moments, chosen_map, reduced_rank, ridge_map


def data(rows: int, p: int, q: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, p, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, p)
    y = x @ torch.randn(p, q, generator=generator, dtype=torch.float64)
    return x, y + 0.1 * torch.randn(rows, q, generator=generator, dtype=torch.float64)


def moments(x: torch.Tensor, y: torch.Tensor, pieces: int = 3) -> Moments:
    found = Moments(x.shape[1], y.shape[1])
    for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
        found.add(a, b)
    return found


def test_the_map_is_the_least_squares_solution_of_the_augmented_system() -> None:
    x, y = data(60, 7, 4)
    for ridge in (1e-6, 1e-2, 1.0):
        level = ridge * float(x.square().sum()) / 7
        stacked = np.vstack([x.numpy(), level**0.5 * np.eye(7)])
        expected = np.linalg.lstsq(stacked, np.vstack([y.numpy(), np.zeros((7, 4))]), rcond=None)[0]
        np.testing.assert_allclose(ridge_map(moments(x, y), ridge).numpy(), expected, rtol=1e-8, atol=1e-10)


def test_with_fewer_rows_than_columns_there_is_a_solution_still() -> None:
    x, y = data(3, 7, 4)
    fitted = x @ ridge_map(moments(x, y), 1e-9)
    assert (fitted - y).norm() < 1e-3 * y.norm()


def test_the_low_rank_form_is_the_best_one_on_the_data() -> None:
    """By the theorem of Eckart and Young on ``X W``, which a truncation of ``W`` itself misses."""
    x, y = data(200, 9, 6)
    found = moments(x, y)
    solution = ridge_map(found, 1e-9)
    singular = torch.linalg.svdvals(x @ solution)
    for rank in (1, 3, 6):
        factors = reduced_rank(solution, found.gram, rank, 1e-9)
        assert factors.up.shape == (6, rank)
        assert factors.down.shape == (rank, 9)
        lost = (x @ (factors.up.double() @ factors.down.double()).T - x @ solution).norm()
        best = singular[rank:].square().sum().sqrt()
        assert abs(float(lost - best)) < 1e-5 * float(singular[0])
    u, s, vh = torch.linalg.svd(solution)
    plain = (u[:, :1] * s[:1]) @ vh[:1]
    one = reduced_rank(solution, found.gram, 1, 1e-9)
    assert (x @ plain - x @ solution).norm() > 1.05 * (x @ (one.up @ one.down).double().T - x @ solution).norm()


def test_what_is_lost_and_what_is_joined_are_told_from_moments() -> None:
    x, y = data(60, 7, 4)
    one, other = moments(x[:40], y[:40]), moments(x[40:], y[40:])
    solution = ridge_map(one, 1e-3)
    assert abs(other.lost(solution) - float((x[40:] @ solution - y[40:]).square().sum())) < 1e-8
    assert (ridge_map(one + other, 1e-3) - ridge_map(moments(x, y), 1e-3)).norm() < 1e-10


def test_the_ridge_is_the_one_that_is_best_on_others() -> None:
    """Hardly any where numbers are exact; a strong one where there are few of them and they are mostly noise."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(90, 20, generator=generator, dtype=torch.float64)
    exact = x @ torch.randn(20, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(90, 3, generator=generator, dtype=torch.float64)
    for y, ridge in ((exact, min(RIDGES)), (noise, max(RIDGES))):
        fitted, held = moments(x[:30], y[:30]), moments(x[30:], y[30:])
        torch.testing.assert_close(chosen_map(fitted, held), ridge_map(fitted + held, ridge))
