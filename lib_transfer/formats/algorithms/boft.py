"""BOFT: OFT with butterflies, several rotations of interleaved blocks one after the other (Liu et al. 2023, arXiv 2311.06243).

LyCORIS ``modules/boft.py`` stores ``oft_blocks`` ``(stages, blocks, size, size)``. In stage ``i`` the rows of the weight are
taken ``2^i * size / 2`` apart, two by two, before the blocks, untransposed, turn them; then they are put back. ``alpha`` and
``rescale`` are as in :mod:`~lib_transfer.formats.algorithms.oft`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lib_transfer.formats.algorithms.cayley import shift, skew
from lib_transfer.formats.algorithms.oft import BLOCKS, RESCALE, Oft, bound
from lib_transfer.formats.tensor_info import TensorInfo


class Boft(Oft):
    """BOFT of LyCORIS: products of rotations of interleaved blocks of outputs."""

    id = "boft"
    title = "BOFT"
    signature = frozenset({BLOCKS, RESCALE})
    dimensions = 4

    def claims(self, infos: Mapping[str, TensorInfo]) -> bool:
        return BLOCKS in infos and super().claims(infos)

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        shape = infos[BLOCKS].shape
        if len(shape) == self.dimensions and 0 not in shape:
            stages, blocks, size = shape[:3]
            if size % 2 or (blocks * size) % (size << (stages - 1)):
                return f"oft_blocks has shape {list(shape)}, which are no butterflies."
        return super().problem(infos)

    def turn(self, tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        turned = weight
        change = weight.new_zeros(weight.shape)
        stages = shift(skew(tensors[BLOCKS], bound(tensors, weight.shape[0]))).float()
        blocks, size = stages.shape[1:3]
        for stage, shifts in enumerate(stages):
            apart = (1 << stage) * (size // 2)
            # (c g k) -> (c k g): the two halves g of a stretch of 2k rows, row by row side by side.
            mixed = turned.reshape(-1, 2, apart, turned.shape[1]).transpose(1, 2)
            moved = (shifts @ mixed.reshape(blocks, size, -1)).reshape(mixed.shape)
            step = moved.transpose(1, 2).reshape(weight.shape)
            change, turned = change + step, turned + step
        return change
