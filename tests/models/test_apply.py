"""An adapter on a running model does what merged weights do, and leaves no bit changed when it is taken off."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from lib_transfer.errors import MismatchError
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import Place, applied, places
from lib_transfer.update import Update


class Net(nn.Module):
    """A layer of every kind that hosts have, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.linear = nn.Linear(8, 12, bias=False)
        self.fused = nn.Linear(12, 9)
        self.narrow = nn.Linear(9, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.last = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.pointwise(self.strided(x))).flatten(2).transpose(1, 2)
        x = self.narrow(self.fused(self.linear(x)))
        return self.last(self.attention(x, x, x)[0])


def net() -> Net:
    torch.manual_seed(3)
    return Net().double().eval()


def where(model: Net) -> dict[str, Place]:
    found = places(
        {name: getattr(model, name) for name in ("strided", "pointwise", "norm", "linear", "narrow", "last")}
    )
    found["fused.q"] = Place(model.fused, "linear", rows=((0, 3), (6, 9)))
    found["fused.k"] = Place(model.fused, "linear", rows=((3, 6),))
    found["attention.v"] = Place(model.attention, "other", "in_proj_weight", "in_proj_bias", rows=((12, 18),))
    found["attention.q"] = Place(model.attention, "other", "in_proj_weight", "in_proj_bias", rows=((0, 6),))
    found["attention.out"] = Place(model.attention.out_proj, "other")
    return found


def low(out: int, into: int) -> Factors:
    return Factors(torch.randn(out, 2).double(), torch.randn(2, into).double())


def changes() -> dict[str, Update]:
    torch.manual_seed(4)
    return {
        "strided": Update(low(8, 36)),
        "pointwise": Update(weight=torch.randn(8, 8, 1, 1).double(), bias=torch.randn(8).double()),
        "norm": Update(weight=torch.randn(8).double(), bias=torch.randn(8).double()),
        "linear": Update(low(12, 8)),
        "fused.q": Update(low(6, 12)),
        "fused.k": Update(bias=torch.randn(3).double()),
        "narrow": Update(weight=torch.randn(6, 9).double()),
        "attention.v": Update(low(6, 6), bias=torch.randn(6).double()),
        "attention.q": Update(weight=torch.randn(6, 6).double()),
        "attention.out": Update(low(6, 6)),
        "last": Update(weight=torch.randn(6).double()),
    }


def weight(update: Update) -> Tensor | None:
    return update.weight if update.factors is None else update.factors.up @ update.factors.down


def merged(strength: float) -> Net:
    """The oracle: weights with the changes added, by hand."""
    model, given = copy.deepcopy(net()), changes()

    def add(parameter: nn.Parameter, change: Tensor | None, rows: list[int] | None = None) -> None:
        if change is None:
            return
        index = slice(None) if rows is None else rows
        parameter.data[index] += strength * change.reshape(parameter.data[index].shape)

    for name in ("strided", "pointwise", "norm", "linear", "narrow", "last"):
        add(getattr(model, name).weight, weight(given[name]))
        add(getattr(model, name).bias, given[name].bias)
    add(model.fused.weight, weight(given["fused.q"]), [0, 1, 2, 6, 7, 8])
    add(model.fused.bias, given["fused.k"].bias, [3, 4, 5])
    add(model.attention.in_proj_weight, weight(given["attention.v"]), list(range(12, 18)))
    add(model.attention.in_proj_bias, given["attention.v"].bias, list(range(12, 18)))
    add(model.attention.in_proj_weight, weight(given["attention.q"]), list(range(6)))
    add(model.attention.out_proj.weight, weight(given["attention.out"]))
    return model


@pytest.mark.parametrize("strength", [1.0, -0.7, 0.0])
def test_it_does_what_merged_weights_do(strength: float) -> None:
    model, x = net(), torch.randn(2, 4, 6, 6).double()
    with torch.no_grad():
        before = model(x)
        with applied(where(model), changes(), lambda _: strength):
            during = model(x)
        torch.testing.assert_close(during, merged(strength)(x), rtol=1e-6, atol=1e-6)
        assert torch.equal(model(x), before)
        assert bool((during - before).norm() > 0.1) == (strength != 0)


def test_every_kind_is_changed_by_itself() -> None:
    model, x = net(), torch.randn(1, 4, 6, 6).double()
    with torch.no_grad():
        before = model(x)
        for name, change in changes().items():
            with applied(where(model), {name: change}):
                assert (model(x) - before).norm() > 1e-3, name
            assert torch.equal(model(x), before), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_bit_of_a_weight_is_changed_afterwards(dtype: torch.dtype) -> None:
    """Not even by what rounds: half precision, a change far larger than the weight, an error on the way."""
    model = net().to(dtype)
    tensors = {name: (p, p.data, p.data.clone()) for name, p in model.named_parameters()}
    given = {name: dataclasses.replace(u.scaled(1e4), bias=u.bias) for name, u in changes().items()}
    with pytest.raises(ZeroDivisionError), applied(where(model), given):
        model.to(dtype)
        raise ZeroDivisionError
    for name, parameter in model.named_parameters():
        same, storage, values = tensors[name]
        assert parameter is same
        assert parameter.data.data_ptr() == storage.data_ptr()
        assert torch.equal(parameter.data, values)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("elsewhere", Update(low(8, 8)), "no module elsewhere"),
        ("linear", Update(low(11, 8)), "linear: the weight's change has 11 rows and the running model 12"),
        ("fused.k", Update(low(6, 12)), "6 rows and the running model 3"),
        ("linear", Update(bias=torch.ones(12)), "linear of the running model has no bias"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(name: str, change: Update, said: str) -> None:
    model = net()
    before = [p.data.clone() for p in model.parameters()]
    with pytest.raises(MismatchError, match=said), applied(where(model), {"norm": changes()["norm"], name: change}):
        pass
    assert all(torch.equal(p.data, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not any(module._forward_hooks for module in model.modules())
