"""What is known of the models that can be run in a program, by architecture."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from lib_transfer.conversion.variants import usual_size
from lib_transfer.errors import UnsupportedError
from lib_transfer.library.base import Base

SPACES = {"sd1": "sd", "sd2": "sd", "sdxl": "sdxl"}
"""The autoencoder whose latents an architecture and its relatives have."""

CHANNELS, FACTOR = 4, 8
"""Of the latents of all these: how many channels, and how many pixels one of them is wide."""

Size = tuple[int, int]
"""Width and height in pixels; zeros for what the architecture was trained on."""


class Kind(NamedTuple):
    """How a checkpoint is run.

    Attributes:
        latent_space: which autoencoder its latents belong to.
        size: width and height of its pictures.
    """

    latent_space: str
    size: Size

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the latents."""
        return CHANNELS, self.size[1] // FACTOR, self.size[0] // FACTOR


def latent_space_of(base: Base) -> str:
    """The word for the autoencoder of a checkpoint.

    Raises:
        UnsupportedError: it is of no kind that can be run here.
    """
    return kind_of(base, (0, 0)).latent_space


def kind_of(base: Base, size: Size) -> Kind:
    """How a checkpoint is run with pictures of ``size``.

    Raises:
        UnsupportedError: it is of no kind that can be run here.
    """
    space = SPACES.get(base.architecture.family)
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


def conditioning(prompts: Sequence[str], size: Size) -> Any:
    """Prompts as both programs hand them to a model, with the size that SDXL is told.

    An empty prompt is what the programs call a negative one: SDXL takes zeros for it.
    """
    parser = importlib.import_module("modules.prompt_parser")
    empty = all(not prompt for prompt in prompts)
    return parser.SdConditioning(list(prompts), is_negative_prompt=empty, width=size[0], height=size[1])


@contextmanager
def own_chance() -> Iterator[None]:
    """The autoencoders draw from a distribution: always the same, and the program's own chance is left as it was."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield
