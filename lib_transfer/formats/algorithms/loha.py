"""LoHa: the elementwise product of two low-rank matrices (LyCORIS ``modules/loha.py``, OneTrainer).

``alpha / r * (w1_a @ w1_b) * (w2_a @ w2_b)`` over the flattened weight. With cores (``hada_t1``, ``hada_t2``, Tucker) each
half is ``einsum("i j k l, j r, i p -> p r k l", t, w_b, w_a)``, which is a product of two matrices as well. OneTrainer
stores a convolution's factors with four dimensions.

The elementwise product of two matrices of rank ``r`` has rank ``r^2``: its factors are the products of all pairs of
columns, and of all pairs of rows (Khatri and Rao 1968).

LyCORIS' own ``get_diff_weight`` and ``merge_to`` apply the scale twice; what was trained, and this, apply it once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import (
    MAX_RANK,
    SCALES,
    Algorithm,
    Shaped,
    checked,
    fold,
    matrix,
    not_floats,
    scale_of,
    wrong_scale,
    wrong_size,
)
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.linalg.factors import Factors, is_thin
from lib_transfer.update import Update

HALVES = ("1", "2")


class Loha(Algorithm):
    """LoHa on linear layers and convolutions, with or without cores."""

    id = "loha"
    title = "LoHa"
    signature = frozenset(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
    optional = frozenset(SCALES)

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        needed = [f"hada_w{half}_{side}" for half in HALVES for side in "ab"]
        if missing := [suffix for suffix in needed if suffix not in infos]:
            return f"{' and '.join(missing)} of the LoHa missing."
        if ("hada_t1" in infos) != ("hada_t2" in infos):
            return "Only one of hada_t1 and hada_t2 is there."
        return wrong_scale(infos) or not_floats(infos, self.signature) or _wrong_shapes(infos)

    def rank(self, tensors: Mapping[str, Shaped]) -> int:
        return tensors["hada_w1_b"].shape[0]

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        core = tensors.get("hada_t1")
        a, b = tensors["hada_w1_a"], tensors["hada_w1_b"].flatten(1)
        out = a.shape[0] if core is None else a.shape[1]
        into = b.shape[1] * (1 if core is None else core[0, 0].numel())
        return wrong_size((out, into), shape)

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        (left1, right1), (left2, right2) = (_half(tensors, half) for half in HALVES)
        scale, notes = scale_of(tensors, self.rank(tensors))
        out, into, rank = left1.shape[0], right1.shape[1], left1.shape[1] * left2.shape[1]
        if not is_thin(rank, out, into):
            return Update(weight=checked((left1 @ right1) * (left2 @ right2) * scale), notes=notes)
        up = (left1[:, :, None] * left2[:, None, :]).flatten(1)
        down = (right1[:, None, :] * right2[None, :, :]).flatten(0, 1)
        up, down = fold(scale, up, down)
        return Update(factors=Factors(up, down), notes=notes)


def _half(tensors: Mapping[str, Tensor], half: str) -> tuple[Tensor, Tensor]:
    """One of the two matrices as ``(out, r)`` and ``(r, in*kh*kw)``."""
    a, b = matrix(tensors[f"hada_w{half}_a"]), matrix(tensors[f"hada_w{half}_b"])
    if f"hada_t{half}" not in tensors:
        return a, b
    core = tensors[f"hada_t{half}"].float()
    return a.T, torch.einsum("ijkl,jr->irkl", core, b).flatten(1)


def _wrong_shapes(infos: Mapping[str, TensorInfo]) -> str | None:
    shapes = {name.removeprefix("hada_"): infos[name].shape for name in sorted(infos) if name.startswith("hada_")}
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    if any(0 in shape or len(shape) not in {2, 4} for shape in shapes.values()):
        return f"The factors are neither those of a linear layer nor of a 2-D convolution: {listed}."
    cored = "t1" in shapes
    ranks = {shapes[f"w{half}_b"][0] for half in HALVES} | {shapes[f"w{h}_a"][0 if cored else 1] for h in HALVES}
    if cored:
        ranks |= {size for half in HALVES for size in shapes[f"t{half}"][:2]}
    sides = [(shapes[f"w{h}_a"][1 if cored else 0], shapes[f"w{h}_b"][1:]) for h in HALVES]
    kernels = {shapes[f"t{half}"][2:] for half in HALVES if cored}
    outer = any(torch.Size(shapes[f"w{h}_a"][2:]).numel() != 1 for h in HALVES)
    inner = cored and any(torch.Size(shapes[f"w{h}_b"][2:]).numel() != 1 for h in HALVES)
    if len(ranks) > 1 or sides[0] != sides[1] or len(kernels) > 1 or outer or inner or () in kernels:
        return f"The shapes disagree: {listed}."
    if max(ranks) > MAX_RANK:
        return f"The rank {max(ranks)} is above the limit of {MAX_RANK}: {listed}."
    return None
