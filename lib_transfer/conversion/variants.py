"""What sets source and target apart beyond their modules, as sentences: weights do not tell what it does to an adapter."""

from __future__ import annotations

import torch

from lib_transfer.architecture import Architecture
from lib_transfer.architecture.variant import V, Variant, settled, telltale, variant
from lib_transfer.formats.checkpoint import Store
from lib_transfer.library.base import Base


def variant_of(architecture: Architecture, checkpoint: Store) -> Variant:
    """What a checkpoint predicts and sees; a tensor is read where its keys do not tell.

    Raises:
        BadFileError, StorageError: that tensor cannot be read.
    """
    found = variant(architecture, checkpoint.shapes)
    key = telltale(architecture, checkpoint.shapes)
    return found if key is None else settled(found, float(checkpoint.read(key, None, torch.float32).std()))


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


def differences(source: Base, target: Base) -> tuple[str, ...]:
    """A sentence for everything that differs: the architecture, what is predicted, what is seen beside the noisy image."""
    one, other = (variant_of(base.architecture, base.checkpoint) for base in (source, target))
    found = []
    if source.architecture.id != target.architecture.id:
        found.append(f"The LoRA was trained on {source.architecture.title}; the target is {target.architecture.title}.")
    if one.prediction != other.prediction:
        found.append(
            f"The source predicts {one.prediction}, the target {other.prediction}: "
            "what a LoRA does may change with that, however alike the weights are."
        )
    if one.input != other.input:
        found.append(f"Beside the noisy image the source sees {_seen(one)}, and the target {_seen(other)}.")
    return tuple(found)


def _seen(of: Variant) -> str:
    return of.input or "nothing"
