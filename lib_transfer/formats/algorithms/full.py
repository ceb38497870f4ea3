"""What is stored number by number: differences (LyCORIS ``full`` and ``norms``), and weights in the place of the base's.

``diff`` and ``diff_b`` change a layer's weight and bias, ``w_norm`` and ``b_norm`` those of a normalisation. ComfyUI calls a
weight that is put in the place of the base's ``set_weight``. The control LoRAs of Black Forest Labs for Flux hold the scales
of normalisations so, under the parameter's own name (``...norm.query_norm.scale``), which is one number per channel and so
no scale of factors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import Algorithm, by, checked, finite32, not_floats, vector
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.update import Update

WEIGHT, SCALE = "set_weight", "scale"


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


class NormDifference(Full):
    """Vectors added to a LayerNorm's or GroupNorm's weight and bias; alpha has no part in it."""

    id = "norm"
    title = "normalisation difference"
    signature = frozenset({"w_norm", "b_norm"})

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        shapes = {infos[suffix].shape for suffix in infos if suffix in self.signature}
        if len(shapes) > 1 or any(len(shape) != 1 or 0 in shape for shape in shapes):
            return f"w_norm and b_norm must be vectors of one length, but have {sorted(map(list, shapes))}."
        return not_floats(infos, self.signature)

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        return Update(weight=vector(tensors.get("w_norm")), bias=vector(tensors.get("b_norm")))


class Replacement(Algorithm):
    """A whole weight, or the scale of a normalisation; the change is what it differs by from the base's."""

    id = "replacement"
    title = "replaced weight"
    needs_base = True
    signature = frozenset({WEIGHT})
    optional = frozenset({SCALE})

    def claims(self, infos: Mapping[str, TensorInfo]) -> bool:
        alone = infos.keys() == {SCALE} and len(infos[SCALE].shape) == 1 and infos[SCALE].shape[0] > 1
        return super().claims(infos) or alone

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        if infos.keys() >= {WEIGHT, SCALE}:
            return "There are both set_weight and scale."
        if any(0 in info.shape or not info.shape for info in infos.values()):
            return "The weight is empty."
        return not_floats(infos, self.suffixes)

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        own = tuple(_value(tensors).shape)
        return None if own == shape else f"its shape {by(own)} does not fit the checkpoint's {by(shape)}"

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        assert base_weight is not None
        return Update(weight=checked(finite32(_value(tensors)) - base_weight))


def _value(tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors[WEIGHT] if WEIGHT in tensors else tensors[SCALE]
