"""The loaded model of Forge and Forge Neo (their backend/diffusion_engine and backend/modules), whatever it is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.layout import Layout
from lib_transfer.conversion.variants import usual_clip_skip
from lib_transfer.library.base import Base
from lib_transfer.models import Schedule, TorchModel
from lib_transfer.models.schedule import shift_at
from lib_transfer.webui.hosts.running.gradients import (
    KERNELS,
    with_copied_norm_inputs,
    with_plain_rotations,
    without_inference_tensors,
)
from lib_transfer.webui.hosts.running.kinds import Kind, Size, chosen_clip_skip, conditioning, fixed_rng, kind_of
from lib_transfer.webui.hosts.running.places import Part, need_whole, places_of

ENGINES = {
    "sd1": "StableDiffusion",
    "sd2": "StableDiffusion2",
    "sdxl": "StableDiffusionXL",
    **dict.fromkeys(("sd3-medium", "sd3.5-medium", "sd3.5-large"), "StableDiffusion3"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "Flux"),
    **dict.fromkeys(("flux2-klein-4b", "flux2-klein-9b"), "Flux2"),
    **dict.fromkeys(("wan-14b", "wan-1.3b"), "Wan"),
    "chroma": "Chroma",
    "anima": "Anima",
    "z-image": "ZImage",
    "lumina-2": "Lumina2",
    "qwen-image": "QwenImage",
    "krea-2": "Krea2",
    "ernie-image": "ErnieImage",
}
"""The class of the programs' engines that runs an architecture, by its id or else its family."""

# Where the text encoders are below the model's `clip.cond_stage_model`, by what they are.
ENCODERS = {
    "clip-l": "clip_l",
    "clip-h": "clip_h",
    "clip-g": "clip_g",
    "t5-xxl": "t5xxl",
    "qwen3-0.6b": "qwen3_06b",
    "anima-llm-adapter": "qwen3_06b",
    "gemma2-2b": "gemma2",
}

DIFFERENTIABLE = ("sd1", "sd2", "sdxl")
"""The families whose gradients were compared with differences of predictions, in the real programs."""

DIFFERENTIABLE_IN_NEO = (
    "anima",
    "ernie-image",
    "flux-dev",
    "flux-schnell",
    "flux2-klein-4b",
    "flux2-klein-9b",
    "krea-2",
    "lumina-2",
    "wan-1.3b",
    "wan-14b",
    "z-image",
)
"""The architectures of which that was done in Forge Neo, whose networks of them are its own."""

SKIPPING = ("sd1", "sd2", "sdxl", "sd3-medium", "sd3.5-medium", "sd3.5-large")
"""The families that see the layers of CLIP which the Clip skip leaves out; of Flux.1 only the pooled text is used."""

EMPTY: dict[str, Callable[[], Any]] = {
    "ref_latents": list,
    "concat_latent": lambda: None,
    "ini_latent": lambda: None,
    "last_extra_generation_params": dict,
}
"""What Forge Neo keeps of the person's last picture and shows to the networks, or writes beside the next picture."""


def runs(architecture: Architecture) -> bool:
    """Whether the program has an engine for an architecture."""
    listed = importlib.import_module("backend.loader").possible_models
    engine = ENGINES.get(architecture.id) or ENGINES.get(architecture.family)
    return any(engine == it.__name__ for it in listed)


def clip_skip(base: Base, asked: int) -> int:
    """The Clip skip that Forge encodes prompts with (``minimal_clip_skip`` in its backend/diffusion_engine)."""
    return max(asked, usual_clip_skip(base)) if base.architecture.family in SKIPPING else usual_clip_skip(base)


def model_of(loaded: Any, base: Base, size: Size, clip_skip: int) -> TorchModel:
    """Forge's model as ours.

    Args:
        loaded: ``backend.diffusion_engine``'s object.
        base: the checkpoint that it was made from.
        size: the width and height of pictures in pixels.
        clip_skip: the Clip skip that prompts are encoded with.

    Raises:
        UnsupportedError: it is of no kind that can be run here, or the program built a part of it only.
    """
    kind = kind_of(base, size)
    objects = loaded.forge_objects
    diffusion_model = objects.unet.model.diffusion_model

    def part_of(layout: Layout) -> Part | None:
        if layout == base.architecture.core:
            return Part(diffusion_model, "", layout.key_layouts[0].style)
        encoder = getattr(objects.clip.cond_stage_model, ENCODERS.get(layout.model, ""), None)
        return None if encoder is None else _encoder_part(encoder, diffusion_model, layout)

    autoencoder = _Autoencoder(objects.vae, kind)
    flow = objects.unet.model.predictor.prediction_type == "const"
    places = places_of(base, part_of)
    if flow:
        need_whole(base, places)
    return TorchModel(
        places,
        _forward(loaded, kind, clip_skip, _denoised if flow else _predicted),
        _schedule(objects.unet.model.predictor, kind),
        kind.shape,
        latent_space=kind.latent_space,
        encode=autoencoder.encode,
        decode=autoencoder.decode,
        differentiable=_has_gradients(base.architecture),
        guidance=kind.guidance,
    )


def _has_gradients(architecture: Architecture) -> bool:
    neo = KERNELS in sys.modules and architecture.id in DIFFERENTIABLE_IN_NEO
    return neo or architecture.family in DIFFERENTIABLE


def _encoder_part(encoder: Any, diffusion_model: nn.Module, layout: Layout) -> Part:
    if layout.model == "anima-llm-adapter":
        # Forge Neo moves it to the text encoder; ComfyUI keeps it where the file has it.
        return Part(encoder if hasattr(encoder, "llm_adapter") else diffusion_model, "llm_adapter.", "native")
    return Part(getattr(encoder, "transformer", encoder), "", "hf")


def _schedule(predictor: Any, kind: Kind) -> Schedule:
    if predictor.prediction_type == "const":
        # Not the predictor's own shift, which follows a setting of the person's last picture; it decides only at which
        # times the model is asked. A flow that was made from a Stable Diffusion has no other.
        half = predictor.sigmas[len(predictor.sigmas) // 2 - 1]
        return Schedule(None, "picture", kind.shift or shift_at(0.5, float(half)))
    # Not the predictor's own products: where the sigmas were replaced (zero terminal SNR), these stayed.
    kept = 1 / (predictor.sigmas.double().cpu() ** 2 + 1)
    return Schedule(kept, "velocity" if predictor.prediction_type == "v_prediction" else "noise")


Call = Callable[[Any, Tensor, Tensor, dict[str, Tensor], dict[str, Any]], Tensor]
"""What runs a ``KModel`` on noised latents at the schedule's steps, with the conditions of the prompts and its options."""


def _predicted(
    k_model: Any, noised: Tensor, steps: Tensor, given: dict[str, Tensor], options: dict[str, Any]
) -> Tensor:
    """What the network predicts, as in `KModel.apply_model` but without its way over sigmas, on which digits are lost."""
    context = given.pop("c_crossattn")
    noised = noised.to(k_model.computation_dtype)
    result: Tensor = k_model.diffusion_model(noised, steps, context=context, transformer_options=options, **given)
    return result


def _denoised(k_model: Any, noised: Tensor, steps: Tensor, given: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    """The picture without noise that the program's sampler would be given; the steps of a flow are its sigmas."""
    sampler = {"cond_or_uncond": [0] * len(steps), "sigmas": steps, "cond_mark": torch.zeros_like(steps)}
    places = {"cond_indices": list(range(len(steps))), "uncond_indices": []}
    result: Tensor = k_model.apply_model(noised, steps, transformer_options={**options, **sampler, **places}, **given)
    return result


def _forward(loaded: Any, kind: Kind, clip_skip: int, call: Call) -> Callable[[Tensor, Tensor, Sequence[str]], Tensor]:
    memory = importlib.import_module("backend.memory_management")

    def forward(noised: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        if call is _denoised and len(prompts) > 1:
            # What the engines make of prompts for these networks is of a length of its own for each.
            each = (slice(place, place + 1) for place in range(len(prompts)))
            return torch.cat([forward(noised[it], steps[it], prompts[it]) for it in each])
        with_grad = torch.is_grad_enabled()
        unet = loaded.forge_objects.unet
        k_model, device = unet.model, unet.load_device
        with _alone(loaded):
            with torch.inference_mode():
                with _clip_skip_set(loaded, clip_skip):
                    said = loaded.get_learned_conditioning(conditioning(prompts, kind.size))
                seen = _deep(noised, loaded)
                memory.load_models_gpu([unet], memory_required=unet.memory_required(list(seen.shape)))
            # The text encoders are always run without gradients.
            with _differentiable(k_model) if with_grad else torch.inference_mode():
                given = _conditions(said, k_model, device)
                made = call(k_model, seen.to(device), steps.to(device).float(), given, _options(unet))
        return _outside(made.reshape(noised.shape))

    return forward


def _deep(noised: Tensor, loaded: Any) -> Tensor:
    """Latents as the network takes them; those of a video's model have a frame."""
    return noised[:, :, None] if getattr(loaded, "is_wan", False) else noised


def _options(unet: Any) -> dict[str, Any]:
    """The options that the program's sampler hands to the network, without those of the last picture."""
    return dict(getattr(unet, "model_options", {}).get("transformer_options", {}))


NAMES = {"crossattn": "c_crossattn", "vector": "y"}
"""What `KModel.apply_model` calls the conditions that the engines give."""


def _conditions(said: Any, k_model: Any, device: Any) -> dict[str, Tensor]:
    """What an engine made of the prompts, as its network takes it.

    Copies, because no gradient goes past what was made in inference mode.
    """
    named = said if isinstance(said, dict) else {"crossattn": _batch(said)}
    dtype = k_model.computation_dtype
    return {NAMES.get(name, name): value.to(device, dtype, copy=True) for name, value in named.items()}


def _batch(said: Any) -> Tensor:
    """The text of a prompt as the program's sampler stacks it (its modules/prompt_parser.py).

    Some engines give a list, and some of these a batch of one within it, which stays: Krea 2's network takes it off, and
    would take off the only token of an empty prompt in its place.
    """
    return said if isinstance(said, Tensor) else torch.stack(list(said))


@contextmanager
def _alone(loaded: Any) -> Iterator[None]:
    """A model without the pictures that the person's last generation referred to; afterwards these are back."""
    arguments = importlib.import_module("backend.args").dynamic_args
    held: list[tuple[Any, str, Any]] = []
    for owner in (loaded, *((arguments,) if isinstance(arguments, type) else ())):
        for name, empty in EMPTY.items():
            if hasattr(owner, name):
                held.append((owner, name, getattr(owner, name)))
                setattr(owner, name, empty())
    try:
        yield
    finally:
        for owner, name, value in held:
            setattr(owner, name, value)


class _Autoencoder:
    """The program's autoencoder, as its engines use it, but without their remembering what was encoded."""

    def __init__(self, vae: Any, kind: Kind) -> None:
        self._vae, self._shape = vae, kind.shape

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents of pictures, one after the other: some programs take the first one only."""
        vae, made = self._vae, []
        with torch.inference_mode():
            for picture in pictures[:, None]:
                with fixed_rng():
                    sample = vae.encode(picture.movedim(1, -1) * 0.5 + 0.5)
                made.append(_outside(vae.first_stage_model.process_in(sample)).reshape(1, -1, *sample.shape[-2:]))
        return torch.cat(made)

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of latents, one after the other."""
        vae, made = self._vae, []
        with torch.inference_mode():
            for latent in latents[:, None]:
                deep = latent[:, :, None] if getattr(vae, "is_wan", False) else latent
                decoded = vae.decode(vae.first_stage_model.process_out(deep))
                made.append(_outside(decoded).reshape(1, *decoded.shape[-3:]).movedim(-1, 1) * 2 - 1)
        return torch.cat(made)


@contextmanager
def _clip_skip_set(loaded: Any, clip_skip: int) -> Iterator[None]:
    """A model with another Clip skip, and afterwards with the person's, which Forge sets before every picture."""
    loaded.set_clip_skip(clip_skip)
    try:
        yield
    finally:
        loaded.set_clip_skip(chosen_clip_skip())


@contextmanager
def _differentiable(network: Any) -> Iterator[None]:
    with without_inference_tensors(network), with_copied_norm_inputs(network), with_plain_rotations():
        yield


def _outside(made: Tensor) -> Tensor:
    """A tensor that can be worked on outside of the inference mode that it was made in."""
    return made.float().cpu().clone()
