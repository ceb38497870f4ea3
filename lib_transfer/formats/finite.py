"""Whether a tensor holds numbers only."""

from __future__ import annotations

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no number in ``tensor``, of any dtype, is NaN or infinite."""
    if not tensor.is_floating_point():
        return True
    # Not every torch has these operations for the short formats on the CPU; all of them are exact in float32.
    numbers = tensor.float() if tensor.element_size() < 4 else tensor
    # A sum is one fast pass, and NaN and infinity spoil it; large finite numbers may, too.
    return bool(torch.isfinite(numbers.sum())) or bool(torch.isfinite(numbers).all())
