"""Full difference: the change of a weight (``diff``) and of a bias (``diff_b``) as they are (LyCORIS ``full``)."""

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
