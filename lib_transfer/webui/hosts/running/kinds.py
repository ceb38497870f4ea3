"""The models that can be run in a program, and how."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from lib_transfer.architecture.sampling import SAMPLINGS
from lib_transfer.architecture.variant import GUIDANCE as READS_GUIDANCE
from lib_transfer.conversion.variants import usual_size, variant_of
from lib_transfer.errors import UnsupportedError
from lib_transfer.library.base import Base
from lib_transfer.models.latents import LATENT_SPACES, SPACES
from lib_transfer.models.model import GUIDANCE

CLIP_SKIP = "CLIP_stop_at_last_layers"
"""The programs' name for the setting Clip skip."""

DISTILLED = 3.5
"""The guidance scale that Flux.1 dev, which was distilled with such a scale, is told."""

UNGUIDED = ("flux-dev", "flux-schnell")
"""The architectures that were distilled to be run without classifier-free guidance; of others, the weights do not tell."""

Size = tuple[int, int]
"""Width and height in pixels; zeros for the size that the checkpoint was trained on."""


class Kind(NamedTuple):
    """How a checkpoint is run.

    Attributes:
        latent_space: the name of its autoencoder.
        size: width and height of its pictures in pixels.
        shift: the shift of its times; None where it is no flow.
        guidance: the scale of classifier-free guidance that it makes pictures with.
    """

    latent_space: str
    size: Size
    shift: float | None = None
    guidance: float = GUIDANCE

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the latents."""
        space = SPACES[self.latent_space]
        return space.channels, self.size[1] // space.factor, self.size[0] // space.factor


def kind_of(base: Base, size: Size) -> Kind:
    """How a checkpoint is run with pictures of ``size``.

    Raises:
        UnsupportedError: it needs more than noise and a prompt.
    """
    architecture = base.architecture
    space, shift = LATENT_SPACES.get(architecture.family), SAMPLINGS[architecture.id].shift
    if space is None or (shift is None and architecture.core.part != "unet"):
        raise UnsupportedError(f"{base.path.name} is {architecture.title}, which cannot be run here.")
    seen = variant_of(architecture, base.checkpoint).input
    if seen not in ("", READS_GUIDANCE):
        raise UnsupportedError(
            f"{base.path.name} sees {seen} beside the noisy image: it needs that to work on, and cannot be run by itself."
        )
    step = SPACES[space].factor * SPACES[space].side
    width, height = (max(side // step * step, step) if side else usual_size(base) for side in size)
    return Kind(space, (width, height), shift, 1.0 if architecture.id in UNGUIDED else GUIDANCE)


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
    """Prompts as the programs hand them to a model, with the size that SDXL is told, and the scale that Flux.1 dev is.

    An empty prompt is what the programs call a negative one: SDXL takes zeros for it.
    """
    parser = importlib.import_module("modules.prompt_parser")
    empty = all(not prompt for prompt in prompts)
    made = parser.SdConditioning(list(prompts), is_negative_prompt=empty, width=size[0], height=size[1])
    made.distilled_cfg_scale = DISTILLED
    return made


@contextmanager
def same_rng() -> Iterator[None]:
    """The program's random state, afterwards as it was: a program that builds a model draws numbers for it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield


@contextmanager
def fixed_rng() -> Iterator[None]:
    """A fixed seed for the autoencoders, which draw from a distribution; the program's random state is left as it was."""
    with same_rng():
        torch.manual_seed(0)
        yield
