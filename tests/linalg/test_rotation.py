"""The direct rotation against the polar factor of dense projectors, and the principal vectors against a dense SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lib_transfer.linalg import subspace as linalg
from lib_transfer.linalg.factors import Factors, thin_svd
from lib_transfer.linalg.rotation import Turn, rotate
from lib_transfer.linalg.subspace import Overlap, StoredBasis

from .weights import direct_rotation, normal, orthonormal, relative, sine

DIMENSION = 60


def turned(basis: Tensor, angle: float, seed: int) -> Tensor:
    """``basis`` with every direction turned by about ``angle`` out of its span."""
    out_of_it = normal(*basis.shape, seed=seed)
    out_of_it = torch.linalg.qr(out_of_it - basis @ (basis.T @ out_of_it))[0]
    mixed = orthonormal(basis.shape[1], basis.shape[1], seed + 1)
    spread = angle * torch.linspace(1, 0.2, basis.shape[1], dtype=torch.float64)
    return torch.linalg.qr((basis @ mixed) * spread.cos() + out_of_it * spread.sin())[0]


def through(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """``x`` rotated from span(a) to span(b) as the methods do it, in float32."""
    source, target = StoredBasis(a.T.float().contiguous()), StoredBasis(b.T.float().contiguous())
    overlap = Overlap(source, target)
    return rotate(x.float(), Turn(overlap, linalg.principal_vectors(overlap.product)))


def dense(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return direct_rotation(a @ a.T, b @ b.T) @ x


@pytest.mark.parametrize("k", [1, 7, 25])
@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-4, 1e-2, 0.3, 1.0, 1.5])
def test_the_rotation_is_the_polar_factor(angle: float, k: int) -> None:
    a = orthonormal(DIMENSION, k, seed=k)
    b = turned(a, angle, seed=3)
    assert sine(a, b) == pytest.approx(np.sin(angle), abs=1e-12)
    x = normal(DIMENSION, 5, seed=4)
    got = through(a, b, x)
    assert relative(got, dense(a, b, x)) < 1e-5
    assert torch.allclose(got.double().norm(dim=0), x.norm(dim=0), rtol=1e-5)
    # Not only close to the input but rightly different from it: the textbook form loses this.
    if angle >= 1e-4:
        assert relative(got.double() - x.float().double(), dense(a, b, x) - x) < 1e-5 + 1e-6 / angle


@pytest.mark.parametrize(("k", "seed"), [(3, 0), (20, 1), (30, 2)])
def test_far_subspaces_too(k: int, seed: int) -> None:
    a, b = orthonormal(DIMENSION, k, seed), orthonormal(DIMENSION, k, seed + 100)
    x = normal(DIMENSION, 4, seed=9)
    assert relative(through(a, b, x), dense(a, b, x)) < 1e-5


@pytest.mark.parametrize("k", [31, 50, 59, 60])
def test_the_rotation_of_the_complements_is_the_same(k: int) -> None:
    whole = orthonormal(DIMENSION, DIMENSION, seed=5)
    other = torch.linalg.qr(whole + 0.05 * normal(DIMENSION, DIMENSION, seed=6))[0]
    x = normal(DIMENSION, 4, seed=9)
    assert relative(through(whole[:, k:], other[:, k:], x), dense(whole[:, :k], other[:, :k], x)) < 1e-5


def test_the_span_is_carried_onto_the_span_and_the_rest_onto_the_rest() -> None:
    whole = orthonormal(DIMENSION, DIMENSION, seed=5)
    a, rest = whole[:, :12], whole[:, 12:]
    b = turned(a, 0.7, seed=6)
    within, outside = through(a, b, a).double(), through(a, b, rest).double()
    assert float((within - b @ (b.T @ within)).norm()) < 1e-5
    assert float((b.T @ outside).norm()) < 1e-5
    assert float((within.T @ within - torch.eye(12)).norm()) < 1e-5


def test_equal_subspaces_are_left_alone_whatever_their_bases() -> None:
    a = orthonormal(DIMENSION, 15, seed=1)
    x = normal(DIMENSION, 3)
    for b in (a, a @ orthonormal(15, 15, seed=2), a.flip(1) * -1):
        assert relative(through(a, b, x), x) < 1e-6 * 5


def test_directions_at_a_right_angle_are_still_carried_by_a_rotation() -> None:
    """There the polar factor is not unique; what must hold is that lengths stay and span goes to span."""
    whole = orthonormal(DIMENSION, 20, seed=8)
    a = whole[:, :10]
    b = torch.cat([a[:, :7], whole[:, 10:13]], dim=1)
    everything = torch.eye(DIMENSION, dtype=torch.float64)
    r = through(a, b, everything).double()
    assert float((r.T @ r - everything).abs().max()) < 1e-5
    carried = r @ a
    assert float((carried - b @ (b.T @ carried)).abs().max()) < 1e-5
    assert relative(r @ a[:, :7], a[:, :7]) < 1e-5  # what both have in common stays
    assert relative(r @ whole[:, 13:], whole[:, 13:]) < 1e-5  # and so does what neither has


def checked(m: Tensor) -> linalg.PrincipalVectors:
    """Principal vectors of ``m``, held against numpy's SVD in float64."""
    got = linalg.principal_vectors(m.float())
    k = m.shape[0]
    one = torch.eye(k, dtype=torch.float64)
    x, y, c = got.x.double(), got.y.double(), got.cosines.double()
    assert float((x.T @ x - one).abs().max()) < 1e-5
    assert float((y.T @ y - one).abs().max()) < 1e-5
    assert float((x @ torch.diag(c) @ y.T - m.double()).abs().max()) < 1e-5
    assert torch.all((c >= 0) & (c <= 1))
    expected = torch.from_numpy(np.linalg.svd(m.double().numpy(), compute_uv=False))
    assert torch.allclose(c.sort(descending=True).values, expected.clamp(max=1), atol=1e-5)
    assert torch.allclose(got.squared_sines.double(), 1 - c**2, atol=2e-7)
    return got


@pytest.mark.parametrize("k", [1, 2, 17, 64])
def test_principal_vectors_of_subspaces_in_general(k: int) -> None:
    a, b = orthonormal(100, k, seed=1), orthonormal(100, k, seed=2)
    got = checked(a.T @ b)
    assert torch.all(got.cosines[:-1] >= got.cosines[1:] - 1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-7, 1e-6, 1e-3])
def test_principal_vectors_of_near_relatives(noise: float) -> None:
    """All singular values agree to rounding."""
    m = torch.eye(120, dtype=torch.float64) + noise * normal(120, 120)
    checked(m / max(1.0, float(torch.linalg.matrix_norm(m, 2))))


@pytest.mark.parametrize("zeros", [1, 5, 12])
def test_principal_vectors_where_cosines_are_zero(zeros: int) -> None:
    cosines = torch.cat([torch.linspace(1, 0.1, 12 - zeros, dtype=torch.float64), torch.zeros(zeros)])
    checked(orthonormal(12, 12, 1) @ torch.diag(cosines) @ orthonormal(12, 12, 2).T)


def test_no_singular_value_decomposition_in_float32_is_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """LAPACK's divide and conquer has failed in float32 where all singular values agree; here it always does."""
    solver = torch.linalg.svd

    def failing(matrix: Tensor, *rest: object, **how: object) -> object:
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("The algorithm failed to converge")
        return solver(matrix, *rest, **how)

    monkeypatch.setattr(torch.linalg, "svd", failing)
    checked(torch.eye(30, dtype=torch.float64))
    u, s, vh = thin_svd(Factors(torch.eye(30), torch.eye(30)))
    assert relative((u * s) @ vh, torch.eye(30).double()) < 1e-6
