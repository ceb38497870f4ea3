"""A1111's loaded model, and how A1111 loads another one (its modules/sd_models.py)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.layout import Layout
from lib_transfer.conversion.variants import usual_clip_skip
from lib_transfer.library.base import Base
from lib_transfer.models import Schedule, TorchModel
from lib_transfer.webui.hosts.running.gradients import without_checkpointing
from lib_transfer.webui.hosts.running.kinds import Kind, Size, clip_skip_set, conditioning, fixed_rng, kind_of
from lib_transfer.webui.hosts.running.places import Part, places_of


@contextmanager
def borrowed() -> Iterator[Callable[[Any], Any]]:
    """A function that loads a checkpoint, given by A1111's description of it; at the end the person's is loaded again."""
    models = importlib.import_module("modules.sd_models")
    # Asking waits for the load that the program's start began in another thread.
    kept = getattr(importlib.import_module("modules.shared").sd_model, "sd_checkpoint_info", None)

    def load(info: Any) -> Any:
        loaded = _loaded(models, info)
        # Another program's UNet in place of the model's (TensorRT); A1111 chooses anew before every picture.
        importlib.import_module("modules.sd_unet").apply_unet("None")
        # Without the LoRAs of the last picture, as `sd_models.get_empty_cond` does it.
        nothing = importlib.import_module("modules.processing").StableDiffusionProcessingTxt2Img()
        importlib.import_module("modules.extra_networks").activate(nothing, {})
        return loaded

    try:
        yield load
    finally:
        if kept is not None:
            _loaded(models, kept)


def _loaded(models: Any, info: Any) -> Any:
    """Load a checkpoint without making it the person's choice."""
    with models.SkipWritingToConfig():
        return models.reload_model_weights(info=info)


def runs(architecture: Architecture) -> bool:
    """Whether this version of A1111 has a network for an architecture; Stable Diffusion 3 came with 1.10."""
    if architecture.id.startswith("sd3"):
        return importlib.util.find_spec("modules.models.sd3") is not None
    return architecture.core.part == "unet"


def clip_skip(base: Base, asked: int) -> int:
    """The Clip skip that A1111 encodes prompts with: only Stable Diffusion 1 follows the setting (modules/sd_hijack_*clip.py)."""
    return asked if base.architecture.family == "sd1" else usual_clip_skip(base)


def model_of(loaded: Any, base: Base, size: Size, clip_skip: int) -> TorchModel:
    """A1111's model as ours.

    Args:
        loaded: ``shared.sd_model``.
        base: the checkpoint that it was made from.
        size: the width and height of pictures in pixels.
        clip_skip: the Clip skip that prompts are encoded with.

    Raises:
        UnsupportedError: it is of no kind that can be run here.
    """
    kind = kind_of(base, size)
    devices = importlib.import_module("modules.devices")

    def part_of(layout: Layout) -> Part:
        first = layout.key_layouts[0]
        # Stable Diffusion 3's three text encoders lie in one of these, by the version.
        root = loaded if hasattr(loaded, "text_encoders") else getattr(loaded, "cond_stage_model", None)
        if first.prefix.startswith("text_encoders.") and root is not loaded:
            return Part(root, first.prefix.removeprefix("text_encoders."), first.style)
        return Part(loaded, first.prefix, first.style)

    def encode(pictures: Tensor) -> Tensor:
        with torch.no_grad(), devices.without_autocast(), fixed_rng():
            given = pictures.to(devices.device, devices.dtype_vae)
            return _home(loaded.get_first_stage_encoding(loaded.encode_first_stage(given)))

    def decode(latents: Tensor) -> Tensor:
        with torch.no_grad(), devices.without_autocast():
            return _home(loaded.decode_first_stage(latents.to(devices.device, devices.dtype_vae)))

    return TorchModel(
        places_of(base, part_of),
        _forward(loaded, kind.size, clip_skip, devices),
        _schedule(loaded, kind),
        kind.shape,
        latent_space=kind.latent_space,
        encode=encode,
        decode=decode,
        # Of Stable Diffusion 3 that was not looked at.
        differentiable=kind.shift is None,
    )


def _schedule(loaded: Any, kind: Kind) -> Schedule:
    if kind.shift is not None:
        # Its `apply_model` takes a sigma and gives the picture without noise (modules/models/sd3/sd3_impls.py).
        return Schedule(None, "picture", kind.shift)
    return Schedule(loaded.alphas_cumprod.double().cpu(), "velocity" if loaded.parameterization == "v" else "noise")


def _forward(
    loaded: Any, size: Size, clip_skip: int, devices: Any
) -> Callable[[Tensor, Tensor, Sequence[str]], Tensor]:
    def forward(noised: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        # Without gradients there is nothing to checkpoint. The autocasts as in `processing.process_images_inner`.
        with without_checkpointing(loaded.model) if torch.is_grad_enabled() else nullcontext():
            with devices.autocast(), clip_skip_set(clip_skip):
                said = _batch(loaded.get_learned_conditioning(conditioning(prompts, size)))
            with devices.without_autocast() if devices.unet_needs_upcast else devices.autocast():
                return _home(loaded.apply_model(noised.to(devices.device), steps.to(devices.device), said))

    return forward


def _batch(said: Any) -> Any:
    """What was made of prompts in one piece; A1111 gives Stable Diffusion 3's for every prompt by itself in one version."""
    if isinstance(said, list):
        return {name: torch.stack([one[name] for one in said]) for name in said[0]}
    return said


def _home(made: Tensor) -> Tensor:
    return made.float().cpu()
