"""OFT with blocks on the diagonal: every block of outputs is rotated (Qiu et al. 2023, arXiv 2306.07280).

LyCORIS ``modules/diag_oft.py`` and kohya ``networks/oft.py`` store ``oft_blocks`` ``(blocks, size, size)``: with
``Q = B - B^T`` and ``R = (I + Q)(I - Q)^-1`` each block of rows of the weight becomes ``R^T W``. ``alpha`` is no scale but a
bound: ``alpha * out`` is the largest norm of all ``Q`` together. LyCORIS takes 0 for no bound (kohya for one that allows
nothing, which nobody trains). ``rescale`` (out, 1[, 1, 1]) multiplies the rotated rows. Older LyCORIS stores ``oft_diag``,
which is ``R`` itself.

BOFT (Liu et al. 2023, arXiv 2311.06243) turns with several rotations of interleaved blocks one after the other. LyCORIS
``modules/boft.py`` stores ``oft_blocks`` ``(stages, blocks, size, size)``: in stage ``i`` the rows of the weight are taken
``2^i * size / 2`` apart, two by two, before the blocks, untransposed, turn them; then they are put back.

Forge reads no OFT; ComfyUI forgets ``out`` in the bound, and ``rescale``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import Algorithm, by, checked, not_floats, wrong_scale
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.update import Update

BLOCKS, DIAGONAL, RESCALE = "oft_blocks", "oft_diag", "rescale"


class Oft(Algorithm):
    """OFT of LyCORIS, old and new, and of kohya: rotations of blocks of outputs."""

    id = "oft"
    title = "OFT"
    needs_base = True
    signature = frozenset({BLOCKS, DIAGONAL, RESCALE})
    optional = frozenset({"alpha"})
    #: How many dimensions ``oft_blocks`` has.
    dimensions = 3

    def claims(self, infos: Mapping[str, TensorInfo]) -> bool:
        return super().claims(infos) and (BLOCKS not in infos or len(infos[BLOCKS].shape) == self.dimensions)

    def idle(self, suffixes: Collection[str]) -> frozenset[str]:
        return frozenset({"alpha"}) if DIAGONAL in suffixes else frozenset()

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        found = sorted({BLOCKS, DIAGONAL} & infos.keys())
        if len(found) != 1:
            return "rescale without oft_blocks." if not found else "There are both oft_blocks and oft_diag."
        shape = infos[found[0]].shape
        if len(shape) != self.dimensions or shape[-1] != shape[-2] or 0 in shape:
            return f"{found[0]} has shape {list(shape)}, but must be square blocks."
        if RESCALE in infos and math.prod(infos[RESCALE].shape) != math.prod(shape[-3:-1]):
            return f"rescale has shape {list(infos[RESCALE].shape)}, but the blocks {list(shape)}."
        return wrong_scale(infos) or not_floats(infos, self.signature)

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        blocks = tensors[BLOCKS] if BLOCKS in tensors else tensors[DIAGONAL]
        if len(shape) > 1 and math.prod(blocks.shape[-3:-1]) == shape[0]:
            return None
        return f"its blocks of shape {by(tuple(blocks.shape))} do not fit the checkpoint's {by(shape)}"

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        assert base_weight is not None
        weight = base_weight.flatten(1)
        return Update(weight=checked(_rescaled(self.turn(tensors, weight), tensors, weight)))

    def turn(self, tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """The change of ``weight`` ``(out, in*kh*kw)`` by the rotations alone."""
        if DIAGONAL in tensors:
            diagonal = tensors[DIAGONAL].double()
            turned = diagonal - torch.eye(diagonal.shape[-1], dtype=torch.float64)
        else:
            turned = shift(skew(tensors[BLOCKS], bound(tensors, weight.shape[0])))
        blocks, size, _ = turned.shape
        return (turned.float().mT @ weight.reshape(blocks, size, -1)).reshape(weight.shape)


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


def skew(blocks: Tensor, constraint: float) -> Tensor:
    """``Q = B - B^T`` per block in float64, all of them together scaled down to the norm ``constraint``; 0 is no bound.

    LyCORIS ``functional/diag_oft.py`` and kohya ``networks/oft.py``, whose additions of 1e-8 to norms are left out.
    """
    q = blocks.double() - blocks.double().transpose(-1, -2)
    norm = float(q.norm())
    return q * (constraint / norm) if 0 < constraint < norm else q


def shift(q: Tensor) -> Tensor:
    """``R - I = 2 Q (I - Q)^-1`` for the Cayley transform ``R = (I + Q)(I - Q)^-1``, per block.

    Without the identity, so that a small rotation loses no digits. ``Q`` and ``(I - Q)^-1`` commute.
    """
    identity = torch.eye(q.shape[-1], dtype=q.dtype)
    result: Tensor = torch.linalg.solve(identity - q, 2 * q)
    return result


def bound(tensors: Mapping[str, Tensor], out: int) -> float:
    """The largest norm of ``Q``; 0 for none."""
    return float(tensors["alpha"].reshape(()).double()) * out if "alpha" in tensors else 0.0


def _rescaled(change: Tensor, tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """``rescale * (W + change) - W``."""
    if RESCALE not in tensors:
        return change
    factor = tensors[RESCALE].double().reshape(-1, 1)
    return factor.float() * change + (factor - 1).float() * weight
