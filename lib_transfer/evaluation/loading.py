"""A checkpoint of Stable Diffusion 1, 2 or XL as a running model, where there is no WebUI that has it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_transfer.architecture.module import Module
from lib_transfer.architecture.variant import EPSILON, V
from lib_transfer.conversion.variants import usual_clip_skip, usual_size, variant_of
from lib_transfer.conversion.weights import read_weight
from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation.prompts import tokens
from lib_transfer.library.base import Base
from lib_transfer.models import Model, Schedule, TorchModel, places
from lib_transfer.models.latents import LATENT_SPACES
from lib_transfer.models.networks import TextEncoder, UNet
from lib_transfer.models.networks.leaves import Leaves, layer
from lib_transfer.models.networks.unet import HEADS_OF_SD1, sinusoids

UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Encoder:
    """How a family uses a text encoder.

    Attributes:
        path: the path of its layers in a single-file checkpoint.
        skip: the number of its last layers that the context leaves out at the usual Clip skip.
        normalised: whether the context goes through the last normalisation.
        pooled: whether it gives a vector too.
    """

    path: str
    skip: int
    normalised: bool
    pooled: bool = False


@dataclass(frozen=True)
class Family:
    """What a base of one family is made of (the configurations of CompVis and Stability AI).

    Attributes:
        encoders: the text encoders, whose contexts lie side by side.
        heads: the number of heads of the UNet's attentions; None where each head has 64 channels.
    """

    encoders: tuple[Encoder, ...]
    heads: int | None


FAMILIES = {
    "sd1": Family((Encoder("cond_stage_model.transformer.text_model.", 0, True),), HEADS_OF_SD1),
    "sd2": Family((Encoder("cond_stage_model.model.", 1, True),), None),
    "sdxl": Family(
        (
            Encoder("conditioner.embedders.0.transformer.text_model.", 1, False),
            Encoder("conditioner.embedders.1.model.", 1, False, pooled=True),
        ),
        None,
    ),
}


class OwnModels:
    """The networks of this package, made from the checkpoints' weights; see :class:`Runner`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

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
        yield lambda base, clip_skip: loaded(base, self._device, size[0] // 8 or None, clip_skip)


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
    if found.input or found.prediction not in (EPSILON, V):
        raise UnsupportedError(
            f"{base.path.name} predicts {found.prediction} and sees {found.input or 'nothing'} beside the noisy image: it "
            "cannot be run without a WebUI."
        )
    return family


@contextmanager
def loaded(base: Base, device: torch.device, side: int | None = None, clip_skip: int | None = None) -> Iterator[Model]:
    """The model of a base, in memory for as long as the context lasts: float32 on the CPU, half precision elsewhere.

    Args:
        base: the checkpoint, with its text encoders.
        device: the device that it runs on.
        side: width and height of its latents; those that it was trained on when not given.
        clip_skip: the Clip skip that prompts are encoded with, no less than the one that it was trained with; that one when
            not given.

    Raises:
        UnsupportedError: it cannot be run here; the message says what is missing.
        BadFileError, StorageError: a weight cannot be read.
    """
    model = _built(base, family_of(base), device, side, clip_skip or usual_clip_skip(base))
    try:
        yield model
    finally:
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _built(base: Base, family: Family, device: torch.device, side: int | None, clip_skip: int) -> TorchModel:
    side = side or usual_size(base) // 8
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    layers = {module.name: _layer(base, module, device, dtype) for module in base.modules}
    network = UNet(Leaves(layers).below(UNET.rstrip(".")), family.heads).eval()
    more = clip_skip - usual_clip_skip(base)
    encoders = [_encoder(base, Leaves(layers), each, more) for each in family.encoders]

    def forward(x: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        context, vector = conditioning(encoders, prompts, (8 * side, 8 * side), network.vector)
        result: Tensor = network(x.to(device, dtype), steps.to(device), context, vector)
        return result

    return TorchModel(
        places(layers),
        forward,
        Schedule.stable_diffusion(
            "velocity" if variant_of(base.architecture, base.checkpoint).prediction == V else "noise"
        ),
        (4, side, side),
        blocks={UNET + path: block for path, block in network.transformer_blocks().items()},
        latent_space=LATENT_SPACES[base.architecture.family],
        differentiable=True,
    )


def conditioning(
    encoders: Sequence[TextEncoder], prompts: Sequence[str], size: tuple[int, int], wide: int
) -> tuple[Tensor, Tensor | None]:
    """What the UNet is conditioned on: the contexts of the prompts side by side, and XL's vector of prompt and sizes.

    The sizes (original, cropped off, target) are each given as 256 sinusoids (Podell et al. 2023, section 2.2).

    Args:
        encoders: the model's text encoders.
        prompts: the prompts.
        size: height and width of the pictures in pixels.
        wide: the width of the vector; 0 for none.
    """
    contexts, vector = [], None
    for encoder in encoders:
        device = encoder.token.weight.device
        numbers = torch.tensor([tokens(prompt, encoder.filler) for prompt in prompts], device=device)
        context, pooled = encoder(numbers)
        contexts.append(context)
        if pooled is not None and wide:
            sizes = torch.tensor([*size, 0, 0, *size], device=device)
            embedded = sinusoids(sizes, (wide - pooled.shape[1]) // len(sizes)).reshape(1, -1).to(pooled.dtype)
            vector = torch.cat([pooled, embedded.expand(len(prompts), -1)], dim=1)
            # Tiny models made for tests have widths that six sizes do not fill.
            vector = functional.pad(vector, (0, wide - vector.shape[1]))
    return torch.cat(contexts, dim=2), vector


def _layer(base: Base, module: Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    weight = read_weight(base.checkpoint, module).reshape(module.shape)
    bias = None
    if module.bias is not None:
        rows: tuple[tuple[int, int] | None, ...] = module.rows or (None,)
        bias = torch.cat([base.checkpoint.read(module.bias, part, torch.float32) for part in rows]).to(device, dtype)
    return layer(module.kind, weight.to(device, dtype), bias)


def _encoder(base: Base, layers: Leaves, given: Encoder, more: int) -> TextEncoder:
    if given.path.rstrip(".") not in layers:
        raise UnsupportedError(
            f"{base.path.name} has no text encoder at {given.path.rstrip('.')}, so the model cannot be run.",
            hint="Name the text encoders' files too.",
        )
    own = layers.below(given.path.rstrip("."))
    projection = own.linear("text_projection") if given.pooled else None
    return TextEncoder(own, projection, skip=given.skip + more, normalised=given.normalised).eval()
