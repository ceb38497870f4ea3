"""Fused weights: an adapter may change at once what here are several modules, and hosts want it back in one piece.

Flux and SD3 keep the query, key and value projections of an attention (and in Flux's single blocks the first layer of the
feed-forward) in one weight. They are decomposed and carried one by one, and joined again when they are written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib_transfer.architecture.module import Binding, Module, Rows
from lib_transfer.formats.update import Dense, LowRank, Norm, Update


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


def place(whole: Tensor, rows: Rows | None, part: Tensor) -> None:
    """Write ``part`` to where its rows lie in ``whole``."""
    at = 0
    for first, last in rows or ((0, whole.shape[0]),):
        whole[first:last] = part[at : at + last - first]
        at += last - first


def take(whole: Tensor, rows: Rows | None) -> Tensor:
    """The rows of ``whole``, in their order."""
    if rows is None:
        return whole
    parts = [whole[first:last] for first, last in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def share_of(update: Update, rows: Rows | None) -> Update:
    """What of a group's update is for a module with these rows of it."""
    if rows is None:
        return update
    if isinstance(update, LowRank):
        extra = None if update.extra is None else _dense(update.extra, rows)
        return dataclasses.replace(update, up=take(update.up, rows), extra=extra)
    if isinstance(update, Dense):
        return _dense(update, rows)
    return Norm(_taken(update.weight, rows), _taken(update.bias, rows), update.notes)


def _dense(update: Dense, rows: Rows) -> Dense:
    return dataclasses.replace(update, weight=_taken(update.weight, rows), bias=_taken(update.bias, rows))


def _taken(tensor: Tensor | None, rows: Rows) -> Tensor | None:
    return None if tensor is None else take(tensor, rows)
