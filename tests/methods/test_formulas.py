"""Every method against its formula, written out densely in float64 on the same bases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lib_transfer.methods import METHODS, get

from ..linalg.weights import matrix, relative
from .bases import KERNELS, SIZES, Dense, dense, problem, product, weights


def rotation(m: Dense) -> Tensor:
    left, right = m.rotations()
    return left @ m.d @ right.T


def prolora(m: Dense) -> Tensor:
    one_u, one_v = torch.eye(m.p_s.shape[0]).double(), torch.eye(m.q_s.shape[0]).double()
    inside = m.p_t @ m.p_s @ m.d @ m.q_s @ m.q_t
    return inside + (one_u - m.p_t) @ (one_u - m.p_s) @ m.d @ (one_v - m.q_s) @ (one_v - m.q_t)


FORMULAS: dict[str, Callable[[Dense], Tensor]] = {
    "reuse": lambda m: m.d,
    "lora-x": lambda m: m.p_t @ m.d @ m.q_t,
    "prolora": prolora,
    "rotation": rotation,
}


def test_every_method_has_its_formula_here() -> None:
    assert {method.id for method in METHODS if not method.runs_models} == set(FORMULAS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", FORMULAS)
def test_the_method_is_its_formula(method: str, kernel: str, size: str, dtype: torch.dtype) -> None:
    source, target = weights(kernel, size, 0.3, dtype)
    given = problem(source, target, k=10)
    got = product(get(method).transfer(given))
    expected = FORMULAS[method](dense(given))
    assert relative(got, expected) < 1e-4
    # The formulas differ from each other here by far more than that: none can pass for another.
    others = [formula(dense(given)) for name, formula in FORMULAS.items() if name != method]
    assert all(relative(got, other) > 1e-2 for other in others)


@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize("by", [1e-4, 1e-2, 2.0])
@pytest.mark.parametrize("k", [1, 24])
def test_near_and_far_relatives_and_whole_subspaces(k: int, by: float, method: str) -> None:
    given = problem(*weights("linear", "wide", by, torch.float32), k=k)
    assert relative(product(get(method).transfer(given)), FORMULAS[method](dense(given))) < 1e-4


@pytest.mark.parametrize(("one", "other"), [("tall", "wide"), ("wide", "square"), ("square", "tall")])
def test_lora_x_between_unequal_dimensions(one: str, other: str) -> None:
    source, _ = weights("linear", one, 0.3, torch.float16)
    target, _ = weights("linear", other, 0.3, torch.float16, seed=40)
    k = 8
    given = problem(source, target, k)
    mapping = get("lora-x").maps_dimensions
    assert mapping is not None
    got = product(mapping(given))
    # U_t (U_s^T D V_s) V_t^T; the bases from a dense SVD, with the documented signs: on the side that has fewer
    # dimensions the entry of largest magnitude is positive, and the other side follows.
    (u_s, v_s), (u_t, v_t) = signed(source, k), signed(target, k)
    expected = u_t @ (u_s.T @ product(given.update) @ v_s) @ v_t.T
    assert got.shape == target.shape
    assert relative(got, expected) < 1e-4


def signed(stored: Tensor, k: int) -> tuple[Tensor, Tensor]:
    u, _, vh = torch.linalg.svd(stored.double(), full_matrices=False)
    u, v = u[:, :k], vh[:k].T
    short = u if stored.shape[0] <= stored.shape[1] else v
    largest = short.gather(0, short.abs().argmax(dim=0, keepdim=True))
    return u * largest.sign(), v * largest.sign()


def test_the_oracle_and_the_method_share_no_more_than_the_bases() -> None:
    """The bases themselves are those of a dense SVD of the stored weight."""
    source, target = weights("3x3", "wide", 0.3, torch.float16)
    given = problem(source, target, k=10)
    for stored, found in ((source, given.source), (target, given.target)):
        assert found is not None
        u, _, vh = torch.linalg.svd(stored.double().reshape(stored.shape[0], -1), full_matrices=False)
        for basis, true in ((found.left, u[:, :10]), (found.right, vh[:10].T)):
            b = matrix(basis, 10)
            assert float((b @ b.T - true @ true.T).norm()) < 1e-5
