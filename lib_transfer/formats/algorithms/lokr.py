"""LoKr: the Kronecker product of two matrices (LyCORIS ``modules/lokr.py``).

``s * kron(w1, w2)`` with ``w1`` ``(a, c)`` and ``w2`` ``(b, d)``, of a convolution ``(b, d, kh, kw)``; the weight is
``(a*b, c*d[, kh, kw])``. Each of the two is stored whole or as two factors (``_a``, ``_b``), ``w2`` also with a core
(``lokr_t2``, Tucker): ``einsum("i j k l, i p, j q -> p q k l", t2, w2_a, w2_b)``. Flattened, all of them are the same
product of two matrices.

``s`` is alpha / r when at least one of the two is stored as factors, r being the rows of ``w2_b``, else of ``w1_b``. When
both are whole ``s`` is 1: the alpha in the file means nothing, and LyCORIS writes huge ones there,
even infinity in fp16.

LyCORIS' own ``get_diff_weight`` and ``merge_to`` apply the scale twice; what was trained, and this, apply it once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import (
    MAX_RANK,
    SCALES,
    Algorithm,
    Shaped,
    checked,
    finite32,
    fold,
    matrix,
    not_floats,
    scale_of,
    wrong_scale,
    wrong_size,
)
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.linalg.dense import trivial
from lib_transfer.linalg.factors import Factors, is_thin
from lib_transfer.update import Update

Shape = tuple[int, ...]


class Lokr(Algorithm):
    """LoKr on linear layers and convolutions, each half whole or in factors."""

    id = "lokr"
    title = "LoKr"
    signature = frozenset(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
    optional = frozenset(SCALES)

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        for half in ("w1", "w2"):
            there = [suffix in infos for suffix in (f"lokr_{half}", f"lokr_{half}_a", f"lokr_{half}_b")]
            if there not in ([True, False, False], [False, True, True]):
                return f"lokr_{half} must be there either whole or as its two factors _a and _b."
        if "lokr_t2" in infos and "lokr_w2" in infos:
            return "lokr_t2 stands beside a whole lokr_w2."
        return wrong_scale(infos) or not_floats(infos, self.signature) or _wrong_shapes(infos)

    def idle(self, suffixes: Collection[str]) -> frozenset[str]:
        factored = "lokr_w1_b" in suffixes or "lokr_w2_b" in suffixes
        return frozenset() if factored else frozenset({"alpha"})

    def rank(self, tensors: Mapping[str, Shaped]) -> int | None:
        inner = next((suffix for suffix in ("lokr_w2_b", "lokr_w1_b") if suffix in tensors), None)
        return None if inner is None else tensors[inner].shape[0]

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        (a, c), (b, d) = _sizes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return wrong_size((a * b, c * d), shape)

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        scale, notes = scale_of(tensors, self.rank(tensors))
        (a1, b1), (a2, b2) = _first(tensors), _second(tensors)
        rank, out, into = a1.shape[1] * a2.shape[1], a1.shape[0] * a2.shape[0], b1.shape[1] * b2.shape[1]
        if not is_thin(rank, out, into):
            return Update(weight=checked(_kron(a1 @ b1, a2 @ b2) * scale), notes=notes)
        up, down = fold(scale, _kron(a1, a2), _kron(b1, b2))
        return Update(factors=Factors(up, down), notes=notes)


def _first(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """``w1`` as a product of two matrices."""
    if "lokr_w1" in tensors:
        return trivial(matrix(tensors["lokr_w1"]))
    return matrix(tensors["lokr_w1_a"]), matrix(tensors["lokr_w1_b"])


def _second(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """``w2``, flattened, as a product of two matrices."""
    if "lokr_w2" in tensors:
        return trivial(matrix(tensors["lokr_w2"]))
    a, b = matrix(tensors["lokr_w2_a"]), matrix(tensors["lokr_w2_b"])
    if "lokr_t2" not in tensors:
        return a, b
    return a.T, torch.einsum("ijkl,jq->iqkl", finite32(tensors["lokr_t2"]), b).flatten(1)


def _kron(a: Tensor, b: Tensor) -> Tensor:
    """The Kronecker product of two matrices; ``torch.kron`` fails on some that are not laid out row by row."""
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def _sizes(shapes: Mapping[str, Shape]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of ``w1`` and of ``w2`` flattened, from the shapes of the tensors."""

    def flat(shape: Shape) -> tuple[int, int]:
        return shape[0], torch.Size(shape[1:]).numel()

    def product(half: str) -> tuple[int, int]:
        whole = shapes.get(f"lokr_{half}")
        return flat(whole) if whole is not None else (shapes[f"lokr_{half}_a"][0], flat(shapes[f"lokr_{half}_b"])[1])

    core = shapes.get("lokr_t2")
    if core is None:
        return product("w1"), product("w2")
    return product("w1"), (shapes["lokr_w2_a"][1], shapes["lokr_w2_b"][1] * torch.Size(core[2:]).numel())


def _wrong_shapes(infos: Mapping[str, TensorInfo]) -> str | None:
    shapes = {name.removeprefix("lokr_"): infos[name].shape for name in sorted(infos) if name.startswith("lokr_")}
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    if any(0 in shape or len(shape) not in {2, 4} for shape in shapes.values()):
        return f"The factors are neither those of a linear layer nor of a 2-D convolution: {listed}."
    core = shapes.get("t2")
    inner = [(shapes[f"{half}_a"], shapes[f"{half}_b"]) for half in ("w1", "w2") if f"{half}_a" in shapes]
    ranks = [(a[0] if core is not None and a is shapes.get("w2_a") else a[1], b[0]) for a, b in inner]
    if any(left != right for left, right in ranks):
        return f"The ranks disagree: {listed}."
    if core is not None and (len(core) != 4 or core[:2] != (shapes["w2_a"][0], shapes["w2_b"][0])):
        return f"The core does not go with its factors: {listed}."
    flat = [name for name in shapes if name not in {"w2", "w2_b", "t2"} or (core is not None and name == "w2_b")]
    if any(torch.Size(shapes[name][2:]).numel() != 1 for name in flat):
        return f"The factors have a kernel where there should be none: {listed}."
    if max((rank for rank, _ in ranks), default=0) > MAX_RANK:
        return f"A rank is above the limit of {MAX_RANK}: {listed}."
    return None
