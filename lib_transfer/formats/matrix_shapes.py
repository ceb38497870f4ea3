"""The shapes of the weights that an adapter changes, as far as its header tells them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.algorithms import lora

Shape = tuple[int, ...]


def matrix_shapes(adapter: Adapter) -> dict[str, tuple[int, int]]:
    """``(out, in*kh*kw)`` of the update of every group whose tensors' shapes tell it at once: LoRA, LoHa and full differences.

    Nothing is read; an adapter from its header alone will do.
    """
    infos = adapter.header.tensors
    found = {}
    for name, group in adapter.groups.items():
        shape = _shape({suffix: infos[key].shape for suffix, key in group.keys.items()})
        if shape is not None:
            found[name] = shape
    return found


def _shape(shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    if lora.UP in shapes and lora.DOWN in shapes:
        kernel = shapes.get(lora.MID, shapes[lora.DOWN])[2:]
        return shapes[lora.UP][0], shapes[lora.DOWN][1] * math.prod(kernel)
    if "hada_w1_a" in shapes and "hada_t1" not in shapes:
        return shapes["hada_w1_a"][0], math.prod(shapes["hada_w1_b"][1:])
    if "diff" in shapes and len(shapes["diff"]) > 1:
        return shapes["diff"][0], math.prod(shapes["diff"][1:])
    return None
