"""Rotations from the tensors of OFT: the Cayley transform of skew-symmetric blocks, and what bounds them."""

from __future__ import annotations

import torch
from torch import Tensor


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
