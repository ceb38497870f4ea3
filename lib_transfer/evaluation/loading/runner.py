"""Checkpoints as running models: float32 on the CPU, half precision elsewhere."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib_transfer.architecture.clip import Clip
from lib_transfer.architecture.variant import EPSILON, V_ZERO_SNR, V
from lib_transfer.conversion.variants import usual_clip_skip, usual_size, variant_of
from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation.loading.autoencoder import Autoencoder
from lib_transfer.evaluation.loading.configurations import FAMILIES, Encoder, Family, text_config, unet_config
from lib_transfer.evaluation.loading.packages import networks
from lib_transfer.evaluation.loading.text import TextEncoder, conditioning, told_beside
from lib_transfer.evaluation.loading.weights import filled, paths_of
from lib_transfer.library.base import Base
from lib_transfer.models import Model, Schedule, TorchModel, places
from lib_transfer.models.latents import LATENT_SPACES

SMALL = 4
"""A GPU whose memory is less than so many times the weights is small: gradients are computed with checkpointing there."""


class DiffusersModels:
    """The networks of diffusers and transformers, with the checkpoints' weights; see :class:`Runner`.

    Args:
        device: the device that they run on.
        checkpointing: whether gradients are computed with checkpointing, which takes less memory and a third more time; None
            for only on a small GPU.
    """

    def __init__(self, device: torch.device, checkpointing: bool | None = None) -> None:
        self._device, self._checkpointing = device, checkpointing

    def latent_space(self, base: Base) -> str:
        """As :class:`Runner` says."""
        family_of(base)
        return LATENT_SPACES[base.architecture.family]

    def clip_skip(self, base: Base, asked: int | None) -> int:
        """As :class:`Runner` says; without a wish, the one that the checkpoint was trained with."""
        return max(asked or 0, usual_clip_skip(base))

    @contextmanager
    def opener(self, size: tuple[int, int]) -> Iterator[Callable[[Base, int], AbstractContextManager[Model]]]:
        """As :class:`Runner` says; the pictures are as high as they are wide."""
        side = size[0] // 8 or None
        yield lambda base, clip_skip: loaded(base, self._device, side, clip_skip, self._checkpointing)


def family_of(base: Base) -> Family:
    """The family of a base.

    Raises:
        UnsupportedError: such a model, or such a variant of it, cannot be run here.
    """
    family = FAMILIES.get(base.architecture.family)
    if family is None:
        raise UnsupportedError(
            f"{base.architecture.title} cannot be run without a WebUI.",
            hint="The Transfer LoRA tab of a WebUI that runs it can verify it.",
        )
    found = variant_of(base.architecture, base.checkpoint)
    if found.input or found.prediction not in (EPSILON, V, V_ZERO_SNR):
        raise UnsupportedError(
            f"{base.path.name} predicts {found.prediction} and sees {found.input or 'nothing'} beside the noisy image: it "
            "cannot be run without a WebUI."
        )
    return family


@contextmanager
def loaded(
    base: Base,
    device: torch.device,
    side: int | None = None,
    clip_skip: int | None = None,
    checkpointing: bool | None = None,
) -> Iterator[Model]:
    """The model of a base, in memory for as long as the context lasts.

    Args:
        base: the checkpoint, with its text encoders.
        device: the device that it runs on.
        side: width and height of its latents; those that it was trained on when not given.
        clip_skip: the Clip skip that prompts are encoded with, no less than the one that it was trained with; that one when
            not given.
        checkpointing: see :class:`DiffusersModels`.

    Raises:
        UnsupportedError: it cannot be run here; the message says what is missing.
        BadFileError, StorageError: a weight cannot be read.
    """
    model = _built(base, family_of(base), device, side, clip_skip or usual_clip_skip(base), checkpointing)
    try:
        yield model
    finally:
        model.close()
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _built(
    base: Base, family: Family, device: torch.device, side: int | None, clip_skip: int, checkpointing: bool | None
) -> TorchModel:
    side = side or usual_size(base) // 8
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    modules: dict[str, nn.Module] = {}
    encoders = []
    for layout, encoder in zip(base.architecture.text_encoders, family.encoders, strict=True):
        assert isinstance(layout, Clip)
        network, found = _text(base, layout, encoder, device, dtype)
        modules |= found
        encoders.append(TextEncoder.of(base, network, layout, encoder, clip_skip - usual_clip_skip(base)))
    core = base.architecture.core
    paths = paths_of(base, core, "diffusers")
    with torch.device("meta"):
        unet = networks().unet(**unet_config(base, family)).eval()
    modules |= filled(base, unet, paths, device, dtype)
    if _small(device, modules) if checkpointing is None else checkpointing:
        unet.enable_gradient_checkpointing()
        # Older versions look at this too. There is no dropout in these networks.
        unet.train()

    def forward(x: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        context, pooled = conditioning(encoders, prompts, empty_is_zero=family.empty_is_zero)
        beside = None if pooled is None else told_beside(pooled, (8 * side, 8 * side), unet.config)
        given = x.to(device, dtype), steps.to(device), context
        result: Tensor = unet(*given, added_cond_kwargs=beside, return_dict=False)[0]
        return result

    autoencoder = Autoencoder(base, device, family.scale)
    return TorchModel(
        places(modules),
        forward,
        schedule_of(base),
        (4, side, side),
        latent_space=LATENT_SPACES[base.architecture.family],
        encode=autoencoder.encode,
        decode=autoencoder.decode,
        differentiable=True,
    )


def schedule_of(base: Base) -> Schedule:
    """The noise schedule of a base, and what it predicts."""
    prediction = variant_of(base.architecture, base.checkpoint).prediction
    schedule = Schedule.stable_diffusion("noise" if prediction == EPSILON else "velocity")
    if prediction != V_ZERO_SNR or schedule.alphas_cumprod is None:
        return schedule
    return dataclasses.replace(schedule, alphas_cumprod=zero_terminal_snr(schedule.alphas_cumprod))


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule shifted and scaled so that nothing of the picture is left at its end (Lin et al. 2023, algorithm 1)."""
    roots = alphas_cumprod.sqrt()
    first, last = roots[0], roots[-1]
    return ((roots - last) * first / (first - last)).square()


def _text(
    base: Base, layout: Clip, encoder: Encoder, device: torch.device, dtype: torch.dtype
) -> tuple[Any, dict[str, nn.Module]]:
    paths = paths_of(base, layout, "hf")
    if not paths:
        raise UnsupportedError(
            f"{base.path.name} has no text encoder at {layout.key_layouts[0].prefix.rstrip('.')}, so the model cannot be run.",
            hint="Name the text encoders' files too.",
        )
    classes = networks()
    with torch.device("meta"):
        network = classes.text(classes.text_config(**text_config(base, layout, encoder))).eval()
    if not encoder.pooled and "text_projection" not in paths.values():
        network.text_projection = nn.Identity()
    return network, filled(base, network, paths, device, dtype)


def _small(device: torch.device, modules: dict[str, nn.Module]) -> bool:
    if device.type != "cuda":
        return False
    weights = sum(p.numel() * p.element_size() for module in modules.values() for p in module.parameters(recurse=False))
    return torch.cuda.get_device_properties(device).total_memory < SMALL * weights
