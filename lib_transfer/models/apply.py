"""Put an adapter on a running model, where its modules lie, and take it off so that every bit is what it was.

Nothing is ever subtracted: a change of a layer is added to what the layer returns, by a hook that is removed; where that cannot
be done, the parameter's data are exchanged for changed ones and the very same tensor is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_transfer.errors import MismatchError
from lib_transfer.update import Rows, Update, Updates


@dataclass(frozen=True)
class Place:
    """One module of the checkpoint, in the model that was built from it.

    Attributes:
        module: the object that holds the weight.
        kind: ``linear`` and ``convolution`` are called with what the weight is applied to, so that a change can be added
            to what they return. Of ``other`` ones (normalisations, attentions that use their weights themselves) the weight
            is exchanged.
        weight, bias: the names of its parameters.
        rows: the rows of the weight, and of what the module returns, that are meant; None for all.
        transposed: whether the parameter is the transpose of the weight.
    """

    module: nn.Module
    kind: Literal["linear", "convolution", "other"]
    weight: str = "weight"
    bias: str = "bias"
    rows: Rows | None = None
    transposed: bool = False


def places(names: Mapping[str, nn.Module]) -> dict[str, Place]:
    """The places of ordinary torch modules, by the canonical names under which they are given."""
    return {name: Place(module, _kind(module)) for name, module in names.items()}


def _kind(module: nn.Module) -> Literal["linear", "convolution", "other"]:
    if isinstance(module, nn.Linear):
        return "linear"
    return "convolution" if isinstance(module, nn.Conv2d) else "other"


Strength = Callable[[str], float]
"""The factor on the update of a module, by its name."""


def whole(_: str) -> float:
    """The factor 1 for every update."""
    return 1.0


@contextmanager
def applied(at: Mapping[str, Place], updates: Updates, strength: Strength = whole) -> Iterator[None]:
    """The model with an adapter on it, for as long as the context lasts; afterwards its weights are bit-identical.

    Args:
        at: the model's modules.
        updates: the adapter.
        strength: the factor on each of its updates.

    Raises:
        MismatchError: the model has no such module, or an update does not fit it; nothing is changed then.
    """
    missing = sorted(set(updates) - set(at))
    if missing:
        raise MismatchError(f"The running model has no module {missing[0]} ({len(missing)} are missing).")
    with torch.no_grad(), ExitStack() as stack:
        for name, update in updates.items():
            place, factor = at[name], strength(name)
            if factor == 0.0:
                continue
            _check(name, place, update)
            if place.kind == "other":
                stack.enter_context(_exchanged(place, update, factor))
            else:
                handle = place.module.register_forward_hook(_Addition(place, update, factor))
                stack.callback(handle.remove)
        yield


class _Addition:
    """A forward hook that adds what an update makes of a layer's input, times a strength, to what the layer returns."""

    def __init__(self, place: Place, update: Update, strength: float) -> None:
        self._place, self._update, self._strength = place, update, strength
        self._ready: dict[tuple[torch.dtype, torch.device], Update] = {}

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], returned: Tensor) -> Tensor:
        x = arguments[0]
        update = self._for(x)
        bias, added = update.bias, None
        if update.changes_weight:
            weights = (update.matrix(),) if update.factors is None else (update.factors.down, update.factors.up)
            added = _layer(module, self._place.kind, weights, x)
        if bias is not None:
            shaped = bias if self._place.kind == "linear" else bias[:, None, None]
            added = shaped if added is None else added + shaped
        assert added is not None
        # Counted from the end, because what a bias adds has no axis for the batch.
        channel = -1 if self._place.kind == "linear" else -3
        return _plus(returned, added.to(returned.dtype), self._place.rows, channel)

    def _for(self, x: Tensor) -> Update:
        """The update in the number format and on the device of ``x``; kept, because a layer is called often."""
        key = (x.dtype, x.device)
        if key not in self._ready:
            # Not before the layer is called: gradients with respect to the factors are to go through this.
            self._ready[key] = self._update.scaled(self._strength).to(x.device, x.dtype)
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
def _exchanged(place: Place, update: Update, strength: float) -> Iterator[None]:
    difference = update.matrix() if update.changes_weight else None
    with ExitStack() as stack:
        for name, added in ((place.weight, difference), (place.bias, update.bias)):
            if added is not None:
                parameter = getattr(place.module, name)
                before = parameter.data
                shaped = added.to(before.device, torch.float32) * strength
                if place.transposed and name == place.weight:
                    shaped = shaped.T
                if place.rows is None:
                    shaped = shaped.reshape(before.shape)
                stack.callback(setattr, parameter, "data", before)
                parameter.data = _plus(before.float(), shaped, place.rows, 0).to(before.dtype)
        yield


def _check(name: str, place: Place, update: Update) -> None:
    """Raise unless the update has as many rows as the place, and the parameters that it is for are there."""
    for what, parameter, given in (
        ("weight", getattr(place.module, place.weight, None), update.shape),
        ("bias", getattr(place.module, place.bias, None), () if update.bias is None else update.bias.shape),
    ):
        if not given:
            continue
        if parameter is None:
            raise MismatchError(f"{name} of the running model has no {what} to change.")
        rows = parameter.shape[0] if place.rows is None else sum(end - first for first, end in place.rows)
        # The parameter of a quantised layer has another shape; what the layer returns tells then.
        if given[0] != rows and parameter.is_floating_point():
            raise MismatchError(f"{name}: the {what}'s change has {given[0]} rows and the running model {rows}.")
