"""DoRA: a magnitude per output or input on top of LoRA, LoHa or LoKr (Liu et al. 2024, arXiv 2402.09353).

With the inner update ``D``, every scale in it: ``V = W + D``, and the new weight is ``V * magnitude / ||V||``. The norm is
taken per row over everything else, or per column (input channel) over outputs and kernel, whichever the magnitude is for.

``dora_scale`` has its length in the dimension it is for: ``(out, 1[, 1, 1])`` or ``(1, in[, 1, 1])`` (LyCORIS before 3.0,
OneTrainer). PEFT's ``lora_magnitude_vector`` and ai-toolkit's ``magnitude`` are always per output. This is what trainers
compute. Hosts differ: Forge takes the norm of ``W`` instead of ``V`` for outputs, A1111 1.9.4 takes every magnitude for
inputs and applies alpha / r last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import Algorithm, Shaped, by, checked, not_floats
from lib_transfer.formats.algorithms.lora import BIASES
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.update import Update

T = TypeVar("T")

SCALE, VECTOR = "dora_scale", "lora_magnitude_vector"
PER_OUTPUT = (VECTOR, "magnitude")
MAGNITUDES = frozenset({SCALE, *PER_OUTPUT})


class Dora(Algorithm):
    """A magnitude on top of another algorithm, which claims its own tensors.

    Args:
        inner: what the direction is written in.
    """

    needs_base = True
    signature = MAGNITUDES

    def __init__(self, inner: Algorithm) -> None:
        self.inner = inner
        # A bias of a factor belongs to no magnitude that a trainer makes: it stays outside, to be reported.
        self.optional = inner.suffixes - {*BIASES}
        self.id = f"dora-{inner.id}"
        self.title = f"DoRA on {inner.title}"

    def claims(self, infos: Mapping[str, TensorInfo]) -> bool:
        return super().claims(infos) and self.inner.claims(infos)

    def idle(self, suffixes: Collection[str]) -> frozenset[str]:
        return self.inner.idle(suffixes)

    def problem(self, infos: Mapping[str, TensorInfo]) -> str | None:
        found = sorted(MAGNITUDES & infos.keys())
        if len(found) > 1:
            return f"There is more than one magnitude: {' and '.join(found)}."
        shape = infos[found[0]].shape
        if torch.Size(shape).numel() != max(shape, default=0):
            return f"{found[0]} has shape {list(shape)}, but must be a vector."
        return not_floats(infos, MAGNITUDES) or self.inner.problem(self._inside(infos))

    def rank(self, tensors: Mapping[str, Shaped]) -> int | None:
        return self.inner.rank(tensors)

    def misfit(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
        magnitude, axis = _magnitude(tensors, shape)
        if len(shape) < 2 or magnitude.numel() != shape[axis]:
            return f"its magnitude of shape {by(tuple(magnitude.shape))} does not fit the checkpoint's {by(shape)}"
        return self.inner.misfit(self._inside(tensors), shape)

    def update(self, tensors: Mapping[str, Tensor], base_weight: Tensor | None = None) -> Update:
        assert base_weight is not None
        inner = self.inner.update(self._inside(tensors))
        change = inner.matrix().reshape(base_weight.shape)
        magnitude, axis = _magnitude(tensors, tuple(base_weight.shape))
        others = [dim for dim in range(change.dim()) if dim != axis]
        norm = torch.linalg.vector_norm(base_weight + change, dim=others, keepdim=True, dtype=torch.float64)
        factor = magnitude.double().reshape(norm.shape) / norm.clamp_min(torch.finfo(torch.float32).eps)
        # V * factor - W, without the cancellation of two nearly equal matrices.
        moved = (factor - 1).float() * base_weight
        return Update(weight=checked(moved.addcmul_(factor.float(), change)), notes=inner.notes)

    def _inside(self, tensors: Mapping[str, T]) -> dict[str, T]:
        return {suffix: tensor for suffix, tensor in tensors.items() if suffix in self.optional}


def _magnitude(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, int]:
    """The magnitude and the dimension of the weight that it is for."""
    suffix = next(suffix for suffix in (SCALE, *PER_OUTPUT) if suffix in tensors)
    magnitude = tensors[suffix]
    per_output = suffix != SCALE or magnitude.shape[:1] == shape[:1]
    return magnitude, 0 if per_output else 1
