"""Stand-ins for Forge's and Forge Neo's engines of flows: what they hand to their samplers, by backend/diffusion_engine.

As there, the network is behind a ``KModel`` that is asked with a sigma and gives the picture without noise; conditions are a
tensor, a dictionary or a list of tensors; latents of a video's model have a frame; and what the last picture referred to lies
in the program's arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.webui.engines import Objects, Prompts, grown, said
from tests.webui.programs import Info

DIFFUSION, ENCODERS = "model.diffusion_model.", "text_encoders."
ADAPTER = "llm_adapter."


class Engine(NamedTuple):
    """How an engine differs from others.

    Attributes:
        wide: whether its latents have a frame.
        channels, factor: those of its autoencoder.
        conditions: what it makes of the text's vector ``(n, 1, 1)``: texts of one token, as the empty prompt is.
        nested: whether the text of a prompt is a batch of one, so that the sampler's batch is one around that.
    """

    wide: bool
    channels: int
    factor: int
    conditions: Callable[[Tensor, Prompts], Any]
    nested: bool = False


def _guided(text: Tensor, prompts: Prompts) -> Any:
    guidance = torch.tensor([prompts.distilled_cfg_scale] * len(prompts))
    return {"crossattn": text, "vector": text[:, 0], "guidance": guidance}


def _nested(text: Tensor, _: Prompts) -> Any:
    return [one[None] for one in text]


ENGINES = {
    "anima": Engine(True, 16, 8, _nested, nested=True),
    "krea-2": Engine(True, 16, 8, _nested, nested=True),
    "z-image": Engine(False, 16, 8, lambda text, _: list(text)),
    "flux-dev": Engine(False, 16, 8, _guided),
    "chroma": Engine(False, 16, 8, lambda text, _: text),
    "flux2-klein-4b": Engine(False, 128, 16, lambda text, _: list(text)),
}


class KModel:
    """``backend.modules.k_model.KModel`` with ``PredictionDiscreteFlow``."""

    computation_dtype = torch.float32

    def __init__(self, network: nn.Module, arguments: Any, engine: Engine) -> None:
        self.diffusion_model, self._arguments, self._engine = network, arguments, engine
        sigmas = torch.arange(1, 1001) / 1000
        # The person's own shift, which is none that a model was made for.
        self.predictor = SimpleNamespace(prediction_type="const", sigmas=11 * sigmas / (1 + 10 * sigmas))
        self.options: dict[str, Any] = {}

    def modules(self) -> Any:
        return self.diffusion_model.modules()

    def apply_model(
        self, x: Tensor, t: Tensor, c_crossattn: Tensor, transformer_options: Any, **more: Tensor
    ) -> Tensor:
        assert x.dim() == (5 if self._engine.wide else 4)
        assert x.shape[0] == t.shape[0] == c_crossattn.shape[0] == 1
        # `modules/prompt_parser.py` stacks what the engine gave, and Krea 2's network takes the second of four dimensions off.
        assert c_crossattn.dim() == (4 if self._engine.nested else 3)
        self.options = transformer_options
        seen = x + sum(float(latent.sum()) for latent in self._arguments.ref_latents)
        added = c_crossattn.sum() + sum((value.sum() for value in more.values()), torch.zeros(()))
        velocity = said(self.diffusion_model, seen) + added
        result: Tensor = x - t.reshape(-1, *[1] * (x.dim() - 1)) * velocity
        return result


class VAE:
    """``backend.patcher.vae.VAE``: pictures from 0 to 1 with the channels last; its latents are the picture's means."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.is_wan = engine, engine.wide
        self.first_stage_model = SimpleNamespace(process_in=lambda z: 3 * z - 1, process_out=lambda z: (z + 1) / 3)

    def encode(self, pictures: Tensor) -> Tensor:
        assert pictures.shape[0] == 1
        small = nn.functional.avg_pool2d(pictures.movedim(-1, 1), self._engine.factor)
        latents = small[:, :1].expand(-1, self._engine.channels, -1, -1)
        return latents[:, :, None] if self.is_wan else latents

    def decode(self, latents: Tensor) -> Tensor:
        if self.is_wan:
            return self._pictures(latents[:, :, 0])[:, None]
        return self._pictures(latents)

    def _pictures(self, latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents[:, :3], scale_factor=self._engine.factor).movedim(1, -1)


class FlowModel:
    """One of ``backend.diffusion_engine``'s classes."""

    def __init__(self, name: str, tensors: dict[str, Tensor], info: Info, arguments: Any) -> None:
        engine = ENGINES[name]
        network = {k.removeprefix(DIFFUSION): t for k, t in tensors.items() if k.startswith(DIFFUSION)}
        text: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(ENCODERS):
                encoder, _, rest = key.removeprefix(ENCODERS).partition(".")
                # Language models are without the level that others have.
                path = rest if encoder in ("clip_l", "t5xxl") else rest.removeprefix("transformer.")
                text.setdefault(encoder, {})[path] = tensor
        for key in [key for key in network if key.startswith(ADAPTER)]:
            # As Forge Neo does it with Anima's.
            text["qwen3_06b"][key] = network.pop(key)
        built = {encoder: grown(nn.Module(), held) for encoder, held in text.items()}
        k_model = KModel(grown(nn.Module(), network), arguments, engine)
        unet = SimpleNamespace(model=k_model, load_device="cpu", memory_required=lambda shape: 0, model_options={})
        self.forge_objects = Objects(unet, SimpleNamespace(cond_stage_model=SimpleNamespace(**built)), VAE(engine))
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.sd_checkpoint_info, self.is_wan, self._engine = info, engine.wide, engine
        self.ref_latents, self.ini_latent = [torch.ones(1)], torch.ones(1)
        self.fails = False

    def set_clip_skip(self, number: int) -> None:
        pass

    def get_learned_conditioning(self, prompts: Prompts) -> Any:
        assert self.ini_latent is None and self.ref_latents == []
        if self.fails:
            raise ZeroDivisionError
        encoders = vars(self.forge_objects.clip.cond_stage_model).values()
        known = sum((said(encoder, torch.zeros(1)) for encoder in encoders), torch.zeros(1))
        return self._engine.conditions(torch.stack([known + len(prompt) for prompt in prompts])[:, None], prompts)
