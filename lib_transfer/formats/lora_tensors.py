"""A low-rank update as the tensors of a kohya LoRA file."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_transfer.errors import NumericError


def lora_tensors(
    name: str, up: Tensor, down: Tensor, kernel: tuple[int, ...] | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The three tensors of the module ``name`` whose change of weight is ``up @ down``.

    Alpha is the rank, so that readers multiply by 1. Where a factor has numbers beyond the range of ``dtype`` (65504
    for float16), it is divided by a power of two, which is exact, and alpha is multiplied by it.

    Args:
        name: the kohya name.
        up: the left factor (out, r).
        down: the right factor (r, in*kh*kw).
        kernel: the kernel (kh, kw) of a convolution, 1x1 included, of one over time (kt, kh, kw); None for a linear layer.
        dtype: what the factors are stored in.

    Returns:
        Contiguous CPU tensors: ``lora_up.weight`` (out, r) or (out, r, 1, 1), ``lora_down.weight`` (r, in) or
        (r, in, kh, kw), ``alpha`` 0-d in ``dtype`` where that holds it exactly, else in float32.

    Raises:
        NumericError: a factor holds NaN or infinity.
    """
    rank = up.shape[1]
    (up, lifted_up), (down, lifted_down) = (_into(name, factor, dtype) for factor in (up, down))
    if kernel is not None:
        up = up.reshape(up.shape[0], rank, *(1 for _ in kernel))
        down = down.reshape(rank, -1, *kernel)
    alpha = torch.tensor(rank * 2.0 ** (lifted_up + lifted_down), dtype=torch.float32)
    exact = bool(alpha.to(dtype).to(torch.float32) == alpha)
    return {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": alpha.to(dtype) if exact else alpha,
    }


def _into(name: str, factor: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """A contiguous copy of ``factor`` in ``dtype`` divided by two to some power, and that power."""
    largest = float(factor.float().abs().max()) if factor.numel() else 0.0
    if not math.isfinite(largest):
        raise NumericError(f"A factor of {name} holds NaN or infinity.")
    limit = torch.finfo(dtype).max
    power = max(0, math.frexp(largest / limit)[1]) if largest > limit else 0
    return (factor.float() * 2.0**-power if power else factor).to("cpu", dtype).contiguous(), power
