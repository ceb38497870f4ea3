"""LoRA and LoCon: two factors, for a convolution optionally with a core between them.

Formats: kohya-ss/sd-scripts ``networks/lora.py`` and LyCORIS ``modules/locon.py``; DyLoRA, LoRA-FA, LoRA+ and rs-LoRA are
ways of training that are stored alike. The delta is ``alpha / r * up @ down`` over the flattened weight. With a core
(``lora_mid``, CP decomposition) it is ``alpha / r * einsum("m n k l, i m, n j -> i j k l", mid, up, down)``, which is
low-rank as well: the core belongs to the right factor.

``r`` is that of the tensors. kohya's ``split_qkv`` trains q, k and v apart and saves them as one module of three (or four)
times the rank, with the alpha of one: such a file is read as weaker than it was trained, here as by every other reader.

A bias of a factor (PEFT's ``lora_bias``, BFL's control LoRAs) changes the layer's bias: ``alpha / r * (up @ b_down + b_up)``.
``reshape_weight`` (ComfyUI) is the shape that the base's weight is padded to before.

A sparse correction of the weight beside the factors (older LyCORIS, ``extract_locon --use_sparse_bias``) makes the update
dense. ``bias_indices`` ``(dimensions, n)``, ``bias_values`` ``(n,)`` and ``bias_size`` ``(dimensions,)`` are a sparse tensor
that is added to the change of the weight, not of the bias. A1111 and Forge do not read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import (
    MAX_RANK,
    SCALES,
    Algorithm,
    Shaped,
    by,
    checked,
    finite32,
    fold,
    not_floats,
    scale_of,
    wrong_scale,
    wrong_size,
)
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.linalg.factors import Factors
from lib_transfer.update import Update

UP, DOWN, MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"
BIAS_UP, BIAS_DOWN = "lora_up.bias", "lora_down.bias"
#: What changes the layer's bias.
BIASES = (BIAS_UP, BIAS_DOWN)
RESHAPE = "reshape_weight"
INDICES, VALUES, SIZE = "bias_indices", "bias_values", "bias_size"
SPARSE = frozenset({INDICES, VALUES, SIZE})
_WHOLE = frozenset({"I8", "I16", "I32", "I64", "U8"})


class Lora(Algorithm):
    """LoRA on linear layers and convolutions (LoCon), with 2-D or 4-D factors, with or without a core."""

    id = "lora"
    title = "LoRA / LoCon"
    signature = frozenset({UP, DOWN, MID})
    optional = frozenset({*SCALES, *SPARSE, *BIASES, RESHAPE})

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        missing = [suffix for suffix in (UP, DOWN) if suffix not in infos]
        if missing:
            there = sorted(infos.keys() & self.signature)
            return f"{' and '.join(there)} without {' and '.join(missing)}."
        if (wrong := wrong_scale(infos)) is not None:
            return wrong
        up, down = infos[UP].shape, infos[DOWN].shape
        mid = infos[MID].shape if MID in infos else None
        wrong = not_floats(infos, self.signature | {*BIASES}) or _wrong_shapes(up, down, mid)
        return wrong or _wrong_biases(infos) or _wrong_sparse(infos)

    def rank(self, tensors: Mapping[str, Shaped]) -> int:
        return tensors[DOWN].shape[0]

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        if RESHAPE in tensors and (wider := tuple(map(int, tensors[RESHAPE].tolist()))) != shape:
            return f"it was made for a weight that is padded to {by(wider)}, and the checkpoint's is {by(shape)}"
        core = tensors.get(MID, tensors[DOWN])
        own = (tensors[UP].shape[0], tensors[DOWN].shape[1] * math.prod(core.shape[2:]))
        return wrong_size(own, shape) or _sparse_misfit(tensors, shape)

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        up, down = finite32(tensors[UP]).flatten(1), finite32(tensors[DOWN])
        rank = self.rank(tensors)
        if MID in tensors:
            down = torch.einsum("mnkl,nj->mjkl", finite32(tensors[MID]), down.flatten(1))
        scale, notes = scale_of(tensors, rank)
        up, down = fold(scale, up, down.flatten(1))
        if tensors.keys() >= SPARSE:
            weight = checked(up @ down + _sparse_correction(tensors))
            return Update(weight=weight, bias=_bias(tensors, scale), notes=notes)
        return Update(factors=Factors(up, down), bias=_bias(tensors, scale), rank=rank, notes=notes)


def _wrong_sparse(infos: Mapping[str, TensorInfo]) -> str | None:
    """Why the sparse correction of a module with these tensors cannot be read, or None; there may be none."""
    there = SPARSE & infos.keys()
    if not there:
        return None
    if there != SPARSE:
        return f"{' and '.join(sorted(there))} without {' and '.join(sorted(SPARSE - there))}."
    if any(infos[suffix].dtype not in _WHOLE for suffix in (INDICES, SIZE)):
        return "The places of the sparse correction are not whole numbers."
    indices, values, size = (infos[suffix].shape for suffix in (INDICES, VALUES, SIZE))
    if len(size) != 1 or len(values) != 1 or indices != (size[0], values[0]):
        return f"The sparse correction disagrees: indices {list(indices)}, values {list(values)}, size {list(size)}."
    return not_floats(infos, frozenset({VALUES}))


def _sparse_misfit(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
    """Why the sparse correction, if there is one, does not belong to a weight of this shape, or None."""
    if INDICES not in tensors:
        return None
    size = tuple(tensors[SIZE].tolist())
    indices = tensors[INDICES].long()
    inside = bool(((indices >= 0) & (indices < tensors[SIZE].long()[:, None])).all())
    if inside and size[:1] == shape[:1] and math.prod(size) == math.prod(shape):
        return None
    return f"its sparse correction of shape {by(size)} does not fit the checkpoint's {by(shape)}"


def _sparse_correction(tensors: Mapping[str, Tensor]) -> Tensor:
    """The correction as a matrix ``(out, in*kh*kw)``, float32."""
    size = tuple(tensors[SIZE].tolist())
    dense = torch.zeros(size)
    dense.index_put_(tuple(tensors[INDICES].long()), finite32(tensors[VALUES]), accumulate=True)
    return dense.flatten(1)


def _bias(tensors: Mapping[str, Tensor], scale: float) -> Tensor | None:
    """The change of the layer's bias; None where there is none."""
    parts = []
    if BIAS_UP in tensors:
        parts.append(tensors[BIAS_UP].double() * scale)
    if BIAS_DOWN in tensors:
        parts.append(tensors[UP].double().flatten(1) @ tensors[BIAS_DOWN].double() * scale)
    return checked(torch.stack(parts).sum(0)) if parts else None


def _wrong_shapes(up: tuple[int, ...], down: tuple[int, ...], mid: tuple[int, ...] | None) -> str | None:
    shapes = f"lora_up {list(up)}, lora_down {list(down)}" + (f", lora_mid {list(mid)}" if mid is not None else "")
    # Models of videos have convolutions over time too.
    if len(up) not in {2, 4, 5} or len(down) not in {2, 4, 5} or (mid is not None and len(mid) != 4):
        return f"The factors are neither those of a linear layer nor of a 2-D or 3-D convolution: {shapes}."
    if math.prod(up[2:]) != 1 or (mid is not None and math.prod(down[2:]) != 1):
        return f"The factors have a kernel where there should be none: {shapes}."
    rank = down[0]
    if up[1] != rank or (mid is not None and mid[:2] != (rank, rank)):
        return f"The ranks disagree: {shapes}."
    if 0 in up + down + (mid or ()):
        return f"A factor is empty: {shapes}."
    if rank > MAX_RANK:
        return f"The rank {rank} is above the limit of {MAX_RANK}: {shapes}."
    return None


def _wrong_biases(infos: Mapping[str, TensorInfo]) -> str | None:
    sizes = {BIAS_UP: infos[UP].shape[0], BIAS_DOWN: infos[DOWN].shape[0]}
    for suffix, size in sizes.items():
        if suffix in infos and infos[suffix].shape != (size,):
            return f"{suffix} has shape {list(infos[suffix].shape)}, but must have {size} numbers."
    if RESHAPE in infos and (len(infos[RESHAPE].shape) != 1 or not infos[RESHAPE].dtype.startswith(("I", "U"))):
        return f"{RESHAPE} is no list of whole numbers."
    return None
