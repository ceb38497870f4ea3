"""An update, and everything that is asked of it, against dense matrices in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lib_transfer.linalg.factors import Factors
from lib_transfer.update import Rows, Update, joined, total

from .linalg.weights import normal, relative

OUT, IN = 6, 10
ROWS: Rows = ((4, 6), (0, 1))


def random(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).float()


def thin(rank: int = 3, out: int = OUT, seed: int = 0, bias: Tensor | None = None) -> Update:
    return Update(factors=Factors(random(out, rank, seed=seed), random(rank, IN, seed=seed + 1)), rank=rank, bias=bias)


def forms() -> list[Update]:
    """Every form an update can have, of a layer with OUT outputs."""
    return [
        thin(),
        thin(bias=random(OUT, seed=7)),
        Update(weight=random(OUT, IN, seed=2), stored=True),
        Update(weight=random(OUT, 5, 2, 1, seed=2), bias=random(OUT, seed=3)),
        Update(weight=random(OUT, seed=4), bias=random(OUT, seed=5), notes=("A note.",)),
        Update(bias=random(OUT, seed=6)),
    ]


def dense(update: Update) -> Tensor | None:
    """The change of the weight in float64, without the code that is tested."""
    if update.factors is not None:
        return update.factors.up.double() @ update.factors.down.double()
    return None if update.weight is None else update.weight.double().reshape(update.weight.shape[0], -1)


def agrees(got: Update, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether ``got`` is the change of these, to the rounding of float32."""
    if got.changes_weight != (weight is not None) or (got.bias is None) != (bias is None):
        return False
    fits_weight = weight is None or relative(got.matrix().double(), weight.reshape(weight.shape[0], -1)) < 1e-6
    return fits_weight and (bias is None or got.bias is None or relative(got.bias, bias) < 1e-6)


def times(tensor: Tensor | None, by: float) -> Tensor | None:
    return None if tensor is None else tensor.double() * by


@pytest.mark.parametrize("update", forms())
def test_what_is_asked_of_it_is_that_of_the_dense_matrix(update: Update) -> None:
    weight, bias = dense(update), update.bias
    assert agrees(update, weight, bias)
    assert agrees(update.scaled(-2.5), times(weight, -2.5), times(bias, -2.5))
    assert agrees(update.to("cpu", torch.float64), weight, bias)
    parts = [part.double().flatten() for part in (weight, bias) if part is not None]
    assert update.norm() == pytest.approx(float(torch.cat(parts).norm()), rel=1e-6)
    kept = [4, 5, 0]
    assert agrees(
        update.rows(ROWS), None if weight is None else weight[kept], None if bias is None else bias[kept].double()
    )
    assert update.rows(None) is update


@pytest.mark.parametrize("update", forms())
def test_what_is_known_of_it_stays(update: Update) -> None:
    for other in (update.scaled(2.0), update.rows(ROWS), update.to("cpu")):
        assert (other.rank, other.stored, other.notes) == (update.rank, update.stored, update.notes)
    assert update.to("cpu", torch.float16).scaled(1.0).norm() == pytest.approx(update.norm(), rel=1e-2)


def test_the_number_format_and_the_gradients_go_through() -> None:
    leaf = random(OUT, 2).requires_grad_()
    update = Update(factors=Factors(leaf, random(2, IN))).scaled(3.0).to("cpu", torch.float64)
    assert update.factors is not None
    assert {update.factors.up.dtype, update.factors.down.dtype} == {torch.float64}
    update.matrix().sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("update", "fitting", "not_fitting"),
    [
        (thin(), [(6, 10), (6, 5, 2, 1), (6, 10, 1, 1)], [(6, 11), (5, 12), (6,), (60,)]),
        (Update(weight=random(6, 10)), [(6, 10), (6, 5, 2, 1)], [(10, 6), (6,), (3, 20)]),
        (Update(weight=random(6)), [(6,), (6, 1)], [(6, 10), (7,)]),
        (Update(bias=random(6)), [(6,), (6, 10)], [(10, 6)]),
        (Update(weight=random(6, 10), bias=random(5)), [], [(6, 10)]),
    ],
)
def test_what_it_fits(update: Update, fitting: list[tuple[int, ...]], not_fitting: list[tuple[int, ...]]) -> None:
    assert all(update.fits(shape) for shape in fitting)
    assert not any(update.fits(shape) for shape in not_fitting)


@pytest.mark.parametrize("update", [u for u in forms() if u.changes_weight])
@pytest.mark.parametrize("rank", [1, 2, 3, None])
def test_recompression_is_the_best_approximation(update: Update, rank: int | None) -> None:
    weight = dense(update)
    assert weight is not None
    got = update.recompressed(rank)
    assert got.factors is not None
    assert got.factors.rank == got.rank
    assert got.bias is update.bias
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    assert relative(got.matrix(), best) < 1e-5
    # The singular values are shared evenly between both factors.
    for gram in (got.factors.up.T @ got.factors.up, got.factors.down @ got.factors.down.T):
        wanted = torch.zeros(got.factors.rank, dtype=torch.float64)
        wanted[: len(s[:rank])] = s[: got.factors.rank]
        assert torch.allclose(gram.double(), torch.diag(wanted), atol=1e-4 * float(s[0]))


def test_sums_are_those_of_the_dense_matrices() -> None:
    one, two = thin(2), thin(3, seed=20, bias=random(OUT, seed=22))
    full = Update(weight=random(OUT, 5, 2, 1, seed=30), bias=random(OUT, seed=31), notes=("Full.",))
    only = Update(bias=random(OUT, seed=32))
    a, b, c = dense(one), dense(two), dense(full)
    assert a is not None and b is not None and c is not None and two.bias is not None and full.bias is not None
    both = total(one, two)
    assert both.factors is not None
    assert both.factors.rank == 5
    assert agrees(both, a + b, two.bias)
    all_of_them = total(one, full, two, only)
    assert all_of_them.shape == full.shape
    assert all_of_them.notes == ("Full.",)
    assert only.bias is not None
    assert agrees(all_of_them, a + b + c, two.bias.double() + full.bias + only.bias)
    assert agrees(total(only, only), None, 2 * only.bias.double())


PARTS: list[Rows] = [((0, 2), (5, 6)), ((3, 5),), ((6, 8),)]
"""Three parts of a weight of nine rows; the rows 2 and 8 belong to none of them."""


@pytest.mark.parametrize("made", ["factors", "dense", "mixed", "biases"])
def test_parts_join_to_the_whole_and_come_out_again(made: str) -> None:
    sizes = [sum(end - first for first, end in rows) for rows in PARTS]
    low = [thin(2, size, seed=10 * size + n) for n, size in enumerate(sizes)]
    full = [Update(weight=random(size, IN, seed=n), bias=random(size, seed=n)) for n, size in enumerate(sizes)]
    only = [Update(bias=random(size, seed=n)) for n, size in enumerate(sizes)]
    updates = {"factors": low, "dense": full, "mixed": [low[0], full[1], only[2]], "biases": only}[made]
    whole = joined([*zip(PARTS, updates, strict=True)], 9)
    if made == "factors":
        assert whole.factors is not None
        assert whole.factors.rank == 6
    for rows, update in zip(PARTS, updates, strict=True):
        part = whole.rows(rows)
        weight = dense(update)
        wanted = torch.zeros(update.bias.shape[0], IN) if weight is None and update.bias is not None else weight
        if part.changes_weight:
            assert torch.allclose(part.matrix().double(), wanted.double(), atol=1e-6)  # type: ignore[union-attr]
        if update.bias is not None:
            assert part.bias is not None
            assert torch.equal(part.bias, update.bias)
        elif part.bias is not None:
            assert not part.bias.any()
    untouched = whole.rows(((2, 3), (8, 9)))
    assert untouched.norm() == 0


def test_nonsense_is_refused() -> None:
    for wrong in ({}, {"factors": thin().factors, "weight": random(OUT, IN)}):
        with pytest.raises(ValueError, match="update"):
            Update(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bias"):
        Update(bias=random(OUT)).matrix()


def test_spectrum() -> None:
    values = torch.tensor([4.0, 2.0, 1.0])
    for update in (Update(weight=torch.diag(values)), Update(factors=Factors(torch.diag(values), torch.eye(3)))):
        assert torch.allclose(update.spectrum().singular_values, values)
        assert update.spectrum().rank == 3
    assert math.isclose(Update(weight=torch.diag(values)).norm(), math.sqrt(21))
