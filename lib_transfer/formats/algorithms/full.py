"""Differences that are stored number by number (LyCORIS ``full`` and ``norms``).

``diff`` and ``diff_b`` change a layer's weight and bias, ``w_norm`` and ``b_norm`` those of a normalisation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import Algorithm, finite32, not_floats, vector
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.update import Update


class Full(Algorithm):
    """A weight's and a bias's difference, stored whole; an ``alpha`` beside them is skipped, as the hosts do."""

    id = "full"
    title = "full difference"
    signature = frozenset({"diff", "diff_b"})
    optional = frozenset({"alpha"})

    def idle(self, suffixes: Collection[str]) -> frozenset[str]:
        return frozenset({"alpha"})

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        if any(0 in infos[suffix].shape for suffix in infos):
            return "The difference is empty."
        return not_floats(infos, self.signature)

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        weight = tensors.get("diff")
        return Update(
            weight=None if weight is None else finite32(weight), bias=vector(tensors.get("diff_b")), stored=True
        )


class NormDifference(Algorithm):
    """Vectors added to a LayerNorm's or GroupNorm's weight and bias; alpha has no part in it."""

    id = "norm"
    title = "normalisation difference"
    signature = frozenset({"w_norm", "b_norm"})
    optional = frozenset({"alpha"})

    def idle(self, suffixes: Collection[str]) -> frozenset[str]:
        return frozenset({"alpha"})

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        shapes = {infos[suffix].shape for suffix in infos if suffix in self.signature}
        if len(shapes) > 1 or any(len(shape) != 1 or 0 in shape for shape in shapes):
            return f"w_norm and b_norm must be vectors of one length, but have {sorted(map(list, shapes))}."
        return not_floats(infos, self.signature)

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        return Update(weight=vector(tensors.get("w_norm")), bias=vector(tensors.get("b_norm")))
