"""How a checkpoint is usually run: the size of its pictures, and the layer of its text encoders."""

from __future__ import annotations

from lib_transfer.architecture.sampling import V
from lib_transfer.library.base import Base
from lib_transfer.library.variant import variant_of

__all__ = ["usual_clip_skip", "usual_size", "variant_of"]


def usual_size(base: Base) -> int:
    """The width and height in pixels of the pictures that a checkpoint was trained on last.

    Of Stable Diffusion 2, those that predict the velocity were trained on larger ones (Stability-AI/stablediffusion, README).
    Wan's videos have 480 lines at the least; a square of 640 has as many pixels.

    Raises:
        BadFileError, StorageError: a tensor that tells cannot be read.
    """
    if base.architecture.family == "sd2":
        return 768 if variant_of(base.architecture, base.checkpoint).prediction == V else 512
    if base.architecture.family.startswith("wan"):
        return 640
    return 512 if base.architecture.family == "sd1" else 1024


def usual_clip_skip(base: Base) -> int:
    """The Clip skip that a checkpoint was trained with, which is also the least that programs run it with.

    XL takes the last layer but one of its text encoders (Podell et al. 2023, section 2.1). So does Stable Diffusion 2, but there
    programs and trainers count without the last layer, which is never used.
    """
    return 2 if base.architecture.family == "sdxl" else 1
