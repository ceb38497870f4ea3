"""The best approximation of a dense update, against a singular value decomposition in float64."""

from __future__ import annotations

import pytest
import torch

from lib_transfer.linalg.dense import Spectrum, trivial
from lib_transfer.linalg.factors import Factors


def matrix(out: int, into: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(out, rank, generator=generator), torch.randn(rank, into, generator=generator)
    return (left * torch.logspace(0, -3, rank)) @ right


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
@pytest.mark.parametrize("factored", [False, True])
def test_every_rank_is_the_best_one(factored: bool, shape: tuple[int, int]) -> None:
    d = matrix(*shape, rank=12)
    u, s, vh = torch.linalg.svd(d.double(), full_matrices=False)
    spectrum = Spectrum(trivial(d) if factored else d)
    assert spectrum.rank == 12
    # float32 is exact to a rounding of the largest one (Weyl's inequality), whatever the processor.
    assert (spectrum.singular_values[:12].double() - s[:12]).abs().max() < 1e-6 * s[0]
    for rank in (1, 5, 12, 400):
        got = spectrum.factors(rank)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert got.rank == min(rank, *shape)
        assert (got.up.double() @ got.down.double() - best).norm() < 1e-6 * s[0]


def test_the_rank_for_an_energy_is_the_smallest() -> None:
    d = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    for given in (d, Factors(d, torch.eye(4))):
        spectrum = Spectrum(given)
        assert [spectrum.rank_for_energy(f) for f in (0.5, 9 / 14 + 1e-6, 13 / 14 - 1e-6, 13 / 14 + 1e-6, 1.0)] == [
            1,
            2,
            2,
            3,
            3,
        ]
    assert Spectrum(torch.zeros(4, 4)).rank_for_energy(0.99) == 0
