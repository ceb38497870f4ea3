"""The number that a product of factors is multiplied by: ``alpha``, ``scale`` and ``scalar``, and how it is folded in."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.tensor_info import TensorInfo

SCALES = ("alpha", "scale", "scalar")


def wrong_scale(infos: Mapping[str, TensorInfo]) -> str | None:
    """A sentence about a scale that is not one number, or None."""
    for suffix in SCALES:
        if suffix in infos and (math.prod(infos[suffix].shape) != 1 or infos[suffix].dtype == "BOOL"):
            return f"{suffix} has shape {list(infos[suffix].shape)}, but must be one number."
    return None


def scale_of(tensors: Mapping[str, Tensor], rank: int | None) -> tuple[float, tuple[str, ...]]:
    """The number the product of the factors is multiplied by, and notes.

    A missing alpha means scale 1; ``scale`` takes the place of alpha / rank (A1111); ``scalar`` multiplies (LyCORIS).
    Training with rs-LoRA needs no rule of its own: LyCORIS stores an alpha that is already multiplied by the root of the
    rank.

    Args:
        tensors: of one module, by suffix.
        rank: that alpha is divided by; None where there is none, and alpha means nothing.
    """
    values = {suffix: float(tensors[suffix].reshape(()).double()) for suffix in SCALES if suffix in tensors}
    if rank is None:
        values.pop("alpha", None)
    effective = ("scale" if "scale" in values else "alpha", "scalar")
    notes = tuple(f"{suffix} is 0: this module does nothing." for suffix in effective if values.get(suffix) == 0.0)
    scale = values.get("scale", 1.0 if rank is None else values.get("alpha", float(rank)) / rank)
    return scale * values.get("scalar", 1.0), notes


def fold(scale: float, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply ``up @ down`` by ``scale``, half of its exponent in each factor.

    Powers of two are exact, so only the mantissa (in ``up``) rounds; all of it in one factor could overflow float32.

    Raises:
        NumericError: a factor does not fit in float32.
    """
    if scale != 1.0:
        mantissa, exponent = math.frexp(scale)
        half = exponent // 2
        up, down = up * mantissa * 2.0 ** (exponent - half), down * 2.0**half
    if not (is_finite(up) and is_finite(down)):
        raise NumericError(f"The scale {scale:g} lifts a factor beyond the range of float32.")
    return up, down
