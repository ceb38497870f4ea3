"""OFT as PEFT and OneTrainer store it: blocks of inputs are rotated (PEFT ``tuners/oft/layer.py``).

``oft_R.weight`` ``(blocks, n (n - 1) / 2)`` is the strict upper triangle of ``Q``, row by row; one block for all is stored
once. ``R`` is the Cayley transform's series ``I + 2Q + 2Q^2 + 2Q^3 + Q^4`` (Cayley-Neumann, as both trainers have it by
default), and the weight becomes ``W R^T`` per block of columns; of a convolution, of the flattened ones. There is no alpha.

PEFT can also take the exact transform, which turns the other way: ``(I - Q)(I + Q)^-1``; the configuration beside the file
tells. OneTrainer (``modules/module/LoRAModule.py``) rotates a convolution's weight the other way, ``W R``, and its
``oft_R.scaled_oft`` says that the numbers are to be divided by ``2 sqrt(n - 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import Algorithm, by, checked, not_floats
from lib_transfer.formats.algorithms.oft import shift
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.update import Update

TRIANGLES, SCALED = "oft_R.weight", "oft_R.scaled_oft"


@dataclass(frozen=True)
class PeftOft(Algorithm):
    """OFT of PEFT and OneTrainer: rotations of blocks of inputs.

    Attributes:
        exact: whether the transform is the exact one, which the configuration beside the file says and no tensor.
        by_onetrainer: whether OneTrainer made the file.
    """

    exact: bool = False
    by_onetrainer: bool = False

    id = "peft-oft"
    title = "OFT (PEFT)"
    needs_base = True
    signature = frozenset({TRIANGLES, SCALED})

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        if TRIANGLES not in infos:
            return "oft_R.scaled_oft without oft_R.weight."
        shape = infos[TRIANGLES].shape
        if len(shape) != 2 or 0 in shape or _size(shape[1]) * (_size(shape[1]) - 1) != 2 * shape[1]:
            return f"oft_R.weight has shape {list(shape)}, whose rows are no triangles."
        if SCALED in infos and math.prod(infos[SCALED].shape) != 1:
            return f"oft_R.scaled_oft has shape {list(infos[SCALED].shape)}, but must be one number."
        return not_floats(infos, frozenset({TRIANGLES}))

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        blocks, length = tensors[TRIANGLES].shape
        needed, rest = divmod(math.prod(shape[1:]), _size(length))
        if len(shape) > 1 and rest == 0 and blocks in (1, needed):
            return None
        return f"its {blocks} blocks of {_size(length)} inputs do not fit the checkpoint's {by(shape)}"

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        assert base_weight is not None
        triangles = tensors[TRIANGLES].double()
        size = _size(triangles.shape[1])
        if SCALED in tensors and bool(tensors[SCALED].reshape(()).item()):
            triangles = triangles / (2 * math.sqrt(size - 1))
        q = triangles.new_zeros(len(triangles), size, size)
        rows, columns = torch.triu_indices(size, size, 1)
        q[:, rows, columns], q[:, columns, rows] = triangles, -triangles
        if base_weight.dim() > 2 and (self.by_onetrainer or SCALED in tensors):
            q = -q  # the transpose of R
        squared = q @ q
        series = 2 * q + 2 * squared + 2 * q @ squared + squared @ squared
        turned = shift(-q) if self.exact else series  # R - I
        weight = base_weight.flatten(1)
        rotations = turned.float().expand(weight.shape[1] // size, size, size)
        change = torch.einsum("obi,bji->obj", weight.reshape(len(weight), -1, size), rotations)
        return Update(weight=checked(change.reshape(weight.shape)))


def _size(length: int) -> int:
    """The size of a block whose strict upper triangle has this length."""
    return (1 + math.isqrt(1 + 8 * length)) // 2
