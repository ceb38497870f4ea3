"""GLoRA: low-rank factors beside the weight and behind it (Chavan et al. 2023, arXiv 2306.07967; LyCORIS ``modules/glora.py``).

LyCORIS 3 stores ``alpha / r * (W a1 a2 + b1 b2)`` with ``a1`` ``(in, r)``, ``a2`` ``(r, in)``, ``b1`` ``(out, r)`` and
``b2`` ``(r, in[, kh, kw])``, optionally with a core ``bm`` between the last two. Older files name the two of each pair the
other way round. The rank tells which: it is the number that all four share in their places, and the smaller one where both
ways fit (a square layer).

Of a convolution, ``W a1`` contracts the input channels; the positions of the kernel stay apart, so its rank counts once
for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import (
    MAX_RANK,
    SCALES,
    Algorithm,
    by,
    finite32,
    fold,
    matrix,
    not_floats,
    scale_of,
    wrong_scale,
)
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.linalg.factors import Factors
from lib_transfer.update import Update

NAMES = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
CORE = "bm.weight"
# In which order the factors are multiplied from the left, by the age of the file.
ORDERS = {"new": NAMES, "old": ("a2.weight", "a1.weight", "b2.weight", "b1.weight")}


class Glora(Algorithm):
    """GLoRA on linear layers and convolutions, in both ways of naming its factors."""

    id = "glora"
    title = "GLoRA"
    needs_base = True
    signature = frozenset({*NAMES, CORE})
    optional = frozenset(SCALES)

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        if missing := [name for name in NAMES if name not in infos]:
            return f"{' and '.join(missing)} missing."
        return wrong_scale(infos) or not_floats(infos, self.signature) or _wrong_shapes(infos)

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        left_a, _, left_b, right_b = _ordered(tensors)
        kernel = tuple(tensors.get(CORE, right_b).shape[2:])
        if (left_b.shape[0], left_a.shape[0]) == shape[:2] and math.prod(kernel) == math.prod(shape[2:]):
            return None
        own = (left_b.shape[0], left_a.shape[0], *kernel)
        return f"its shape {by(own)} does not fit the checkpoint's {by(shape)}"

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        assert base_weight is not None
        left_a, right_a, left_b, right_b = _ordered(tensors)
        scale, notes = scale_of(tensors, left_b.shape[1])
        out, into = base_weight.shape[:2]
        stacked = base_weight.reshape(out, into, -1)
        positions = stacked.shape[2]
        behind_up = torch.einsum("oip,ir->orp", stacked, matrix(left_a)).flatten(1)
        behind_down = torch.einsum("ri,pq->rpiq", matrix(right_a), torch.eye(positions)).reshape(-1, into * positions)
        beside_down = matrix(right_b)
        if CORE in tensors:
            beside_down = torch.einsum("rskl,si->rikl", finite32(tensors[CORE]), beside_down).flatten(1)
        up, down = torch.cat([behind_up, matrix(left_b)], 1), torch.cat([behind_down, beside_down])
        up, down = fold(scale, up, down)
        return Update(factors=Factors(up, down), notes=notes)


def _ordered(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The factors as they are multiplied: ``W left_a right_a + left_b right_b``."""
    order = _order({name: tuple(tensors[name].shape) for name in NAMES})
    assert order is not None
    left_a, right_a, left_b, right_b = (tensors[name] for name in order)
    return left_a, right_a, left_b, right_b


def _order(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...] | None:
    """The names of the factors in the order in which they are multiplied; None if their shapes fit neither."""
    ranks = {}
    for age in ("old", "new"):
        left_a, right_a, left_b, right_b = (shapes[name] for name in ORDERS[age])
        if len({left_a[1], right_a[0], left_b[1], right_b[0]}) == 1:
            ranks[age] = left_a[1]
    return ORDERS[min(ranks, key=lambda age: ranks[age])] if ranks else None


def _wrong_shapes(infos: Mapping[str, TensorInfo]) -> str | None:
    shapes = {name: infos[name].shape for name in sorted(infos) if name in {*NAMES, CORE}}
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    if any(0 in shape or len(shape) not in {2, 4} for shape in shapes.values()):
        return f"The factors are neither those of a linear layer nor of a 2-D convolution: {listed}."
    order = _order(shapes)
    if order is None:
        return f"The ranks disagree: {listed}."
    left_a, right_a, left_b, right_b = (shapes[name] for name in order)
    core, rank = shapes.get(CORE), left_b[1]
    flat = [left_a, right_a, left_b, *([right_b] if core else [])]
    wrong_core = core is not None and (len(core) != 4 or core[:2] != (rank, rank))
    if wrong_core or any(math.prod(shape[2:]) != 1 for shape in flat) or len({left_a[0], right_a[1], right_b[1]}) > 1:
        return f"The shapes disagree: {listed}."
    if rank > MAX_RANK:
        return f"The rank {rank} is above the limit of {MAX_RANK}: {listed}."
    return None
