"""Normalisation layers: what is added to weight (``w_norm``) and bias (``b_norm``) (LyCORIS ``norms``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import Algorithm, by, not_floats, vector
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.update import Update


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

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        # Alone, a difference of the bias would pass for that of any layer with as many outputs.
        if "w_norm" in tensors or len(shape) == 1:
            return None
        return f"it is for a normalisation, and the source's weight is {by(shape)}"

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        return Update(weight=vector(tensors.get("w_norm")), bias=vector(tensors.get("b_norm")))
