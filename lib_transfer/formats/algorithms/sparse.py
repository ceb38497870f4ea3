"""A sparse correction of the weight beside a LoRA (older LyCORIS, ``extract_locon --use_sparse_bias``).

``bias_indices`` ``(dimensions, n)``, ``bias_values`` ``(n,)`` and ``bias_size`` ``(dimensions,)`` are a sparse tensor that is
added to the change of the weight, not of the bias. A1111 and Forge do not read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import by, finite32, not_floats
from lib_transfer.formats.tensor_info import TensorInfo

INDICES, VALUES, SIZE = "bias_indices", "bias_values", "bias_size"
SPARSE = frozenset({INDICES, VALUES, SIZE})
_WHOLE = frozenset({"I8", "I16", "I32", "I64", "U8"})


def wrong_sparse(infos: Mapping[str, TensorInfo]) -> str | None:
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


def sparse_misfit(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
    """Why the sparse correction, if there is one, does not belong to a weight of this shape, or None."""
    if INDICES not in tensors:
        return None
    size = tuple(tensors[SIZE].tolist())
    indices = tensors[INDICES].long()
    inside = bool(((indices >= 0) & (indices < tensors[SIZE].long()[:, None])).all())
    if inside and size[:1] == shape[:1] and math.prod(size) == math.prod(shape):
        return None
    return f"its sparse correction of shape {by(size)} does not fit the source's {by(shape)}"


def sparse_correction(tensors: Mapping[str, Tensor]) -> Tensor:
    """The correction as a matrix ``(out, in*kh*kw)``, float32."""
    size = tuple(tensors[SIZE].tolist())
    dense = torch.zeros(size)
    dense.index_put_(tuple(tensors[INDICES].long()), finite32(tensors[VALUES]), accumulate=True)
    return dense.flatten(1)
