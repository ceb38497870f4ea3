"""Fused weights: an adapter may change at once what are several modules here.

Flux and SD3 keep the query, key and value projections of an attention (and in Flux's single blocks the first layer of the
feed-forward) in one weight. They are decomposed and carried one by one, and joined again when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib_transfer.architecture.module import Binding, Module
from lib_transfer.formats.adapter import Group
from lib_transfer.update import Update, place


def whole_shape(bound: Sequence[Binding]) -> tuple[int, ...]:
    """Shape of the weight that a group changes, of which the bound modules are the parts."""
    first = bound[0].module.shape
    return (sum(binding.module.shape[0] for binding in bound), *first[1:])


def whole_weight(bound: Sequence[Binding], read: Callable[[Module], Tensor]) -> Tensor:
    """That weight, its rows in the order in which the group has them."""
    if len(bound) == 1 and bound[0].rows is None:
        return read(bound[0].module)
    whole = torch.empty(whole_shape(bound))
    for module, rows in bound:
        place(whole, rows, read(module))
    return whole


def update_of(group: Group, bound: Sequence[Binding], read: Callable[[Module], Tensor]) -> Update:
    """The update of the whole weight that a group changes; it must not be a misfit for :func:`whole_shape`.

    Args:
        group: the group of the adapter.
        bound: the modules that it changes.
        read: reads a module's weight, float32 and in its own shape; asked only where the update is made from the weight.

    Raises:
        NumericError: a number does not fit in float32, or a weight holds NaN or infinity.
    """
    return group.update(whole_weight(bound, read) if group.algorithm.needs_base else None)
