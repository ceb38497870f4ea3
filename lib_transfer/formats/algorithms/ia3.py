"""(IA)^3: a factor per output or input of a weight (Liu et al. 2022, arXiv 2205.05638; LyCORIS ``modules/ia3.py``).

The change is ``W * weight``, along the inputs when ``on_input`` is 1, else along the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import Algorithm, by, checked, not_floats, vector
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.update import Update

WEIGHT, ON_INPUT = "weight", "on_input"


class Ia3(Algorithm):
    """(IA)^3 on linear layers and convolutions; known by ``on_input``, which has no other use."""

    id = "ia3"
    title = "(IA)^3"
    needs_base = True
    signature = frozenset({ON_INPUT})
    optional = frozenset({WEIGHT})

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        if WEIGHT not in infos:
            return "on_input without weight."
        if math.prod(infos[ON_INPUT].shape) != 1:
            return f"on_input has shape {list(infos[ON_INPUT].shape)}, but must be one number."
        shape = infos[WEIGHT].shape
        if not shape or max(shape) != math.prod(shape):
            return f"weight has shape {list(shape)}, but must be a vector."
        return not_floats(infos, frozenset({WEIGHT}))

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        length, axis = tensors[WEIGHT].numel(), _axis(tensors)
        if len(shape) > axis and shape[axis] == length:
            return None
        return f"its {length} factors for {'inputs' if axis else 'outputs'} do not fit the checkpoint's {by(shape)}"

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        assert base_weight is not None
        factors = vector(tensors[WEIGHT])
        assert factors is not None
        shape = torch.ones(base_weight.dim(), dtype=torch.long)
        shape[_axis(tensors)] = -1
        change = checked(base_weight * factors.reshape(shape.tolist()))
        # Not a vector, even where the weight is one: that would stand for the difference of a normalisation.
        return Update(weight=change.reshape(len(change), -1))


def _axis(tensors: Mapping[str, Tensor]) -> int:
    """The dimension of the weight that is scaled."""
    return int(bool(tensors[ON_INPUT].reshape(()).item()))
