"""Forge's loaded model, and how Forge loads another one (its backend/diffusion_engine and modules/sd_models.py)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lib_transfer.architecture.layout import Layout
from lib_transfer.conversion.variants import usual_clip_skip
from lib_transfer.library.base import Base
from lib_transfer.models import Schedule, TorchModel
from lib_transfer.webui.hosts.running.gradients import with_copied_norm_inputs, without_inference_tensors
from lib_transfer.webui.hosts.running.kinds import Size, chosen_clip_skip, conditioning, fixed_rng, kind_of
from lib_transfer.webui.hosts.running.places import Part, blocks_of, places_of

# Where the text encoders are below the model's `clip.cond_stage_model`, by what they are.
ENCODERS = {"clip-l": "clip_l", "clip-h": "clip_h", "clip-g": "clip_g"}


@contextmanager
def borrowed() -> Iterator[Callable[[Any], Any]]:
    """A function that loads a checkpoint, given by Forge's description of it; at the end everything is as it was.

    Forge loads what ``forge_loading_parameters`` say when it is needed. Where nothing was loaded yet, nothing is afterwards.
    """
    models, options = importlib.import_module("modules.sd_models"), importlib.import_module("modules.shared").opts
    data = models.model_data
    wanted, hashed = data.forge_loading_parameters, options.data.get("sd_checkpoint_hash")
    unloaded = None if hasattr(data.sd_model, "forge_objects") else data.sd_model
    given: Any = None
    patched: list[tuple[Any, Any]] = []

    def put_back() -> None:
        """Nothing of a model may be held while another is loaded."""
        for model, objects in patched:
            model.forge_objects = objects
        patched.clear()

    def load(info: Any) -> Any:
        nonlocal given
        put_back()
        beside = getattr(options, "forge_additional_modules", None) or []
        given = {"checkpoint_info": None, "additional_modules": beside, "unet_storage_dtype": None, **wanted}
        data.forge_loading_parameters = given = {**given, "checkpoint_info": info}
        model = _loaded(models)
        patched.append((model, model.forge_objects))
        # Without the LoRAs and the patches of the last picture.
        model.forge_objects = model.forge_objects_original.shallow_copy()
        return model

    try:
        yield load
    finally:
        put_back()
        # Where the person chose another checkpoint meanwhile, that one is loaded.
        if data.forge_loading_parameters is given:
            data.forge_loading_parameters = wanted
        if unloaded is None:
            _loaded(models)
        elif given is not None:
            data.sd_model, data.forge_hash = unloaded, ""
            importlib.import_module("backend.memory_management").unload_all_models()
            if hashed is None:
                options.data.pop("sd_checkpoint_hash", None)
            else:
                options.data["sd_checkpoint_hash"] = hashed


def _loaded(models: Any) -> Any:
    """What the parameters say, loaded; Forge takes a model that could not be loaded for one that was."""
    if models.model_data.sd_model is None:
        models.model_data.forge_hash = ""
    model, _ = models.forge_model_reload()
    return model


def clip_skip(base: Base, asked: int) -> int:
    """The Clip skip that Forge encodes prompts with (``minimal_clip_skip`` in its backend/diffusion_engine)."""
    return max(asked, usual_clip_skip(base))


def model_of(loaded: Any, base: Base, size: Size, clip_skip: int) -> TorchModel:
    """Forge's model as ours.

    Args:
        loaded: ``backend.diffusion_engine``'s object.
        base: the checkpoint that it was made from.
        size: the width and height of pictures in pixels.
        clip_skip: the Clip skip that prompts are encoded with.

    Raises:
        UnsupportedError: it is of no kind that can be run here.
    """
    kind = kind_of(base, size)
    predictor = loaded.forge_objects.unet.model.predictor

    def part_of(layout: Layout) -> Part | None:
        if layout == base.architecture.core:
            return Part(loaded.forge_objects.unet.model.diffusion_model, "", layout.key_layouts[0].style)
        encoder = getattr(loaded.forge_objects.clip.cond_stage_model, ENCODERS[layout.model], None)
        return None if encoder is None else Part(encoder.transformer, "", "hf")

    def encode(pictures: Tensor) -> Tensor:
        with fixed_rng():
            return _outside(loaded.encode_first_stage(pictures))

    return TorchModel(
        places_of(base, part_of),
        _forward(loaded, kind.size, clip_skip),
        Schedule(
            # Not the predictor's own products: where the sigmas were replaced (zero terminal SNR), these stayed.
            1 / (predictor.sigmas.double().cpu() ** 2 + 1),
            "velocity" if predictor.prediction_type == "v_prediction" else "noise",
        ),
        kind.shape,
        blocks=blocks_of(base, part_of),
        latent_space=kind.latent_space,
        encode=encode,
        decode=lambda latents: _outside(loaded.decode_first_stage(latents)),
        differentiable=True,
    )


def _forward(loaded: Any, size: Size, clip_skip: int) -> Callable[[Tensor, Tensor, Sequence[str]], Tensor]:
    memory = importlib.import_module("backend.memory_management")

    def forward(noised: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        with_grad = torch.is_grad_enabled()
        with torch.inference_mode():
            with _clip_skip_set(loaded, clip_skip):
                said = loaded.get_learned_conditioning(conditioning(prompts, size))
            unet = loaded.forge_objects.unet
            memory.load_models_gpu([unet], memory_required=unet.memory_required(list(noised.shape)))
        # The text encoders are always run without gradients.
        with _differentiable(unet.model) if with_grad else torch.inference_mode():
            # As `KModel.apply_model` does, without its way over sigmas, on which digits are lost.
            k_model, device = unet.model, unet.load_device
            said = {"crossattn": said} if isinstance(said, Tensor) else said
            # Copies, because no gradient goes past what was made in inference mode.
            given = {name: value.to(device, k_model.computation_dtype, copy=True) for name, value in said.items()}
            y = {"y": given["vector"]} if "vector" in given else {}
            predicted = k_model.diffusion_model(
                noised.to(device, k_model.computation_dtype),
                steps.to(device).float(),
                context=given["crossattn"],
                transformer_options={},
                **y,
            ).float()
        return _outside(predicted)

    return forward


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
    with without_inference_tensors(network), with_copied_norm_inputs(network):
        yield


def _outside(made: Tensor) -> Tensor:
    """A tensor that can be worked on outside of the inference mode that it was made in."""
    return made.float().cpu().clone()
