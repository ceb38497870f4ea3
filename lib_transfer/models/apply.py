"""Put an adapter on a running model, and take it off so that every bit is what it was.

Nothing is ever subtracted: a change of a layer is added to what the layer returns, by a hook that is removed; where that cannot
be done, the parameter's data are exchanged for changed ones and the very same tensor is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_transfer.errors import MismatchError
from lib_transfer.linalg.factors import Factors
from lib_transfer.models.place import Place, Rows


@dataclass(frozen=True, eq=False)
class Change:
    """What an adapter does to one module.

    Attributes:
        weight: factors, or the difference itself as ``(out, in*kh*kw)``, in the weight's shape, or ``(features,)``;
            None where only the bias changes.
        bias: ``(out,)``, or None.
    """

    weight: Factors | Tensor | None
    bias: Tensor | None = None


Changes = Mapping[str, Change]
"""What an adapter does to a model, by canonical name of the module."""

Strength = Callable[[str], float]
"""The factor on the change of a module, by its name."""


def whole(_: str) -> float:
    """Every change as it is."""
    return 1.0


@contextmanager
def applied(at: Mapping[str, Place], changes: Changes, strength: Strength = whole) -> Iterator[None]:
    """The model with an adapter on it, for as long as the context lasts; afterwards its weights are bit-identical.

    Args:
        at: the model's modules.
        changes: of the adapter.
        strength: the factor on each of them.

    Raises:
        MismatchError: the model has no such module, or a change does not fit it; nothing is changed then.
    """
    missing = sorted(set(changes) - set(at))
    if missing:
        raise MismatchError(f"The running model has no module {missing[0]} ({len(missing)} are missing).")
    with torch.no_grad(), ExitStack() as stack:
        for name, change in changes.items():
            place, factor = at[name], strength(name)
            if factor == 0.0:
                continue
            _check(name, place, change)
            if place.kind == "other":
                stack.enter_context(_exchanged(place, change, factor))
            else:
                handle = place.module.register_forward_hook(_Addition(place, change, factor))
                stack.callback(handle.remove)
        yield


class _Addition:
    """A forward hook that adds ``strength * change`` to what a layer returns."""

    def __init__(self, place: Place, change: Change, strength: float) -> None:
        self._place, self._change, self._strength = place, change, strength
        self._ready: dict[tuple[torch.dtype, torch.device], tuple[tuple[Tensor, ...], Tensor | None]] = {}

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], returned: Tensor) -> Tensor:
        x = arguments[0]
        weights, bias = self._for(x)
        added = _layer(module, self._place.kind, weights, x) if weights else None
        if bias is not None:
            shaped = bias if self._place.kind == "linear" else bias[:, None, None]
            added = shaped if added is None else added + shaped
        assert added is not None
        # Counted from the end: of what a bias adds, the batch is no axis.
        channel = -1 if self._place.kind == "linear" else -3
        return _plus(returned, added.to(returned.dtype), self._place.rows, channel)

    def _for(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The change in the number format and on the device of ``x``; kept, because a layer is called often."""
        key = (x.dtype, x.device)
        if key not in self._ready:
            weight, bias = self._change.weight, self._change.bias
            if isinstance(weight, Factors):
                parts: tuple[Tensor, ...] = (weight.down, weight.up * self._strength)
            else:
                parts = () if weight is None else (weight.reshape(weight.shape[0], -1) * self._strength,)
            moved = tuple(part.to(x.device, x.dtype) for part in parts)
            self._ready[key] = (moved, None if bias is None else (bias * self._strength).to(x.device, x.dtype))
        return self._ready[key]


def _layer(module: nn.Module, kind: str, weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """``x`` through matrices one after the other, the first of them the way the layer goes through its weight."""
    first, *rest = weights
    if kind == "linear":
        for weight in weights:
            x = functional.linear(x, weight)
        return x
    assert isinstance(module, nn.Conv2d)
    into = module.in_channels // module.groups
    kernel = first.reshape(first.shape[0], into, *module.kernel_size)
    x = functional.conv2d(x, kernel, None, module.stride, module.padding, module.dilation, module.groups)
    for weight in rest:
        x = functional.conv2d(x, weight[:, :, None, None])
    return x


def _plus(whole: Tensor, added: Tensor, rows: Rows | None, axis: int) -> Tensor:
    """``whole + added``; ``added`` has only the rows ``rows`` along ``axis``, where they are given."""
    if rows is None:
        return whole + added
    result, begin = whole.clone(), 0
    for first, end in rows:
        result.narrow(axis, first, end - first).add_(added.narrow(axis, begin, end - first))
        begin += end - first
    return result


@contextmanager
def _exchanged(place: Place, change: Change, strength: float) -> Iterator[None]:
    given = change.weight
    difference = given.up @ given.down if isinstance(given, Factors) else given
    with ExitStack() as stack:
        for name, added in ((place.weight, difference), (place.bias, change.bias)):
            if added is not None:
                parameter = getattr(place.module, name)
                before = parameter.data
                shaped = added.to(before.device, torch.float32) * strength
                if place.rows is None:
                    shaped = shaped.reshape(before.shape)
                stack.callback(setattr, parameter, "data", before)
                parameter.data = _plus(before.float(), shaped, place.rows, 0).to(before.dtype)
        yield


def _check(name: str, place: Place, change: Change) -> None:
    """Raise unless the change has as many rows as the place, and the parameters that it is for are there."""
    weight = getattr(place.module, place.weight, None)
    for what, parameter, given in (
        ("weight", weight, change.weight.up if isinstance(change.weight, Factors) else change.weight),
        ("bias", getattr(place.module, place.bias, None), change.bias),
    ):
        if given is None:
            continue
        if parameter is None:
            raise MismatchError(f"{name} of the running model has no {what} to change.")
        rows = parameter.shape[0] if place.rows is None else sum(end - first for first, end in place.rows)
        # A layer whose weight is kept in a code has another shape; what it returns tells then.
        if given.shape[0] != rows and parameter.is_floating_point():
            raise MismatchError(f"{name}: the {what}'s change has {given.shape[0]} rows and the running model {rows}.")
