"""The models that can be run in a program, and how."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from lib_transfer.conversion.variants import usual_size
from lib_transfer.errors import UnsupportedError
from lib_transfer.library.base import Base
from lib_transfer.models.latents import LATENT_SPACES

CHANNELS, FACTOR = 4, 8
"""The channels of the latents of all models that can be run, and the width in pixels of one latent."""

CLIP_SKIP = "CLIP_stop_at_last_layers"
"""The programs' name for the setting Clip skip."""

Size = tuple[int, int]
"""Width and height in pixels; zeros for the size that the checkpoint was trained on."""


class Kind(NamedTuple):
    """How a checkpoint is run.

    Attributes:
        latent_space: the name of its autoencoder.
        size: width and height of its pictures in pixels.
    """

    latent_space: str
    size: Size

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the latents."""
        return CHANNELS, self.size[1] // FACTOR, self.size[0] // FACTOR


def latent_space_of(base: Base) -> str:
    """The name of the autoencoder that a checkpoint works with.

    Raises:
        UnsupportedError: it is of no kind that can be run here.
    """
    return kind_of(base, (0, 0)).latent_space


def kind_of(base: Base, size: Size) -> Kind:
    """How a checkpoint is run with pictures of ``size``.

    Raises:
        UnsupportedError: it is of no kind that can be run here.
    """
    space = LATENT_SPACES.get(base.architecture.family)
    if space is None:
        raise UnsupportedError(
            f"{base.path.name} is {base.architecture.title}, which cannot be run here.",
            hint="Stable Diffusion 1, 2 and XL and their relatives can.",
        )
    first = base.by_name.get("model.diffusion_model.input_blocks.0.0")
    if first is not None and first.shape[1] != CHANNELS:
        raise UnsupportedError(
            f"{base.path.name} is for inpainting or editing: it needs a picture to work on, and cannot be run by itself."
        )
    width, height = (max(side // FACTOR * FACTOR, FACTOR) if side else usual_size(base) for side in size)
    return Kind(space, (width, height))


def chosen_clip_skip() -> int:
    """The Clip skip in the program's settings, where Forge keeps that of its own bar too."""
    return int(getattr(importlib.import_module("modules.shared").opts, CLIP_SKIP, 1))


@contextmanager
def clip_skip_set(clip_skip: int) -> Iterator[None]:
    """The program's settings with another Clip skip, and afterwards exactly as they were.

    It is to last for as long as prompts are encoded, and no longer: what is saved meanwhile is saved with it. A value that
    the person chose meanwhile stays.
    """
    settings = importlib.import_module("modules.shared").opts.data
    before = {CLIP_SKIP: settings[CLIP_SKIP]} if CLIP_SKIP in settings else {}
    settings[CLIP_SKIP] = clip_skip
    try:
        yield
    finally:
        if settings.get(CLIP_SKIP) == clip_skip:
            settings.pop(CLIP_SKIP)
            settings.update(before)


def conditioning(prompts: Sequence[str], size: Size) -> Any:
    """Prompts as both programs hand them to a model, with the size that SDXL is told.

    An empty prompt is what the programs call a negative one: SDXL takes zeros for it.
    """
    parser = importlib.import_module("modules.prompt_parser")
    empty = all(not prompt for prompt in prompts)
    return parser.SdConditioning(list(prompts), is_negative_prompt=empty, width=size[0], height=size[1])


@contextmanager
def fixed_rng() -> Iterator[None]:
    """A fixed seed for the autoencoders, which draw from a distribution; the program's random state is left as it was."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield
