"""Training of bases and of LoRAs. Every finished one is a file, and is read instead of being trained again."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_transfer.architecture.module import Module
from lib_transfer.formats.identity import file_sha256, legacy_a1111_hash
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.publish import publish
from lib_transfer.formats.serialise import serialise
from lib_transfer.formats.writer import write_adapter
from tests.benchmarks.quality import pictures
from tests.benchmarks.quality.family import RECIPES, Base, Recipe

BATCH = 24
NO_WORDS = 0.1
"""Share of the prompts that are left empty, for guidance."""

LORA_STEPS, LORA_RATE, LORA_RANK = 150, 3e-3, 8


@dataclass(frozen=True)
class Workshop:
    """Where a family is, and how it is made.

    Attributes:
        folder: of its files.
        seed: of everything.
        effort: share of the steps that are done; 1 for all.
    """

    folder: Path
    seed: int
    effort: float = 1.0

    def base(self, name: str) -> Base:
        """The base of this name, trained now if there is no file of it yet."""
        recipe, path = recipe_of(name), self.base_file(name)
        if not path.exists():
            _train_base(self, recipe, path)
        base = Base(recipe.layout)
        base.network.load_state_dict(load_file(path))
        return base.eval().requires_grad_(False)

    def lora(self, name: str, style: str) -> Path:
        """The LoRA for a style in the base's own domain, trained on the base of this name now if there is no file of it."""
        path = self.lora_file(name, style)
        if not path.exists():
            _train_lora(self, name, style, path)
        return path

    def base_file(self, name: str) -> Path:
        """Where a base is kept."""
        return self.folder / f"{name.replace(', ', '-').replace(' ', '-')}.safetensors"

    def lora_file(self, name: str, style: str) -> Path:
        """Where a LoRA is kept."""
        return self.base_file(name).with_name(f"{self.base_file(name).stem}-{style}-lora.safetensors")

    def steps(self, whole: int) -> int:
        """How many steps of ``whole`` are done."""
        return max(4, round(whole * self.effort))

    def generator(self, stage: str) -> torch.Generator:
        """Chance for a stage, whichever were done before in this run."""
        digest = hashlib.sha256(f"{self.seed} {stage}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def recipe_of(name: str) -> Recipe:
    """The recipe of the base of this name."""
    return next(recipe for recipe in RECIPES if recipe.name == name)


def loss_of(base: Base, shown: pictures.Pictures, noise: Tensor, times: Tensor, prompts: Iterable[str]) -> Tensor:
    """Mean square of what ``base`` misses of the noise, for each picture ``(n,)``."""
    noised = base.schedule.noised(base.autoencoder.encode(shown.pixels), noise, times)
    missed = base(noised, base.schedule.steps(times), tuple(prompts)) - noise
    lost: Tensor = missed.square().flatten(1).mean(1)
    return lost


def _train_base(shop: Workshop, recipe: Recipe, path: Path) -> None:
    generator = shop.generator(recipe.name)
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # of new weights
    base, teacher = Base(recipe.layout), None
    if recipe.parent is not None:
        teacher = shop.base(recipe.parent)
        base.inherit(teacher)

    def loss(batch: _Batch) -> Tensor:
        noised = base.schedule.noised(batch.latents, batch.noise, batch.times)
        steps = base.schedule.steps(batch.times)
        said = base(noised, steps, batch.prompts)
        missed: Tensor = (said - batch.noise).square().mean()
        if recipe.taught and teacher is not None:
            with torch.no_grad():
                wanted = teacher(noised, steps, batch.prompts)
            missed = missed + (said - wanted).square().mean()
        return missed

    _descend(
        f"base {recipe.name}",
        list(base.network.parameters()),
        lambda: loss(_batch(base, generator, recipe.domain, None)),
        shop.steps(recipe.steps),
        recipe.rate,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: w.detach().contiguous() for key, w in base.network.state_dict().items()}
    file = serialise(tensors, {"format": "pt"})
    publish(path, file.pieces(), file.size, overwrite=True)


def _train_lora(shop: Workshop, name: str, style: str, path: Path) -> None:
    generator = shop.generator(f"{name} {style}")
    base = shop.base(name)
    layers = {module: _Lora(network, generator) for module, network in base.adaptable().values()}
    parameters = [p for layer in layers.values() for p in (layer.up, layer.down)]

    def loss() -> Tensor:
        batch = _batch(base, generator, recipe_of(name).domain, style)
        noised = base.schedule.noised(batch.latents, batch.noise, batch.times)
        missed = base(noised, base.schedule.steps(batch.times), batch.prompts) - batch.noise
        value: Tensor = missed.square().mean()
        return value

    with ExitStack() as stack:
        for layer in layers.values():
            stack.callback(layer.handle.remove)
        _descend(f"LoRA {name}, {style}", parameters, loss, shop.steps(LORA_STEPS), LORA_RATE)
    _write_lora(shop.base_file(name), style, layers, path)


class _Lora:
    """Plain LoRA on one linear layer (Hu et al. 2021): begins with no change."""

    def __init__(self, network: nn.Linear, generator: torch.Generator) -> None:
        down = torch.randn(LORA_RANK, network.in_features, generator=generator) / math.sqrt(network.in_features)
        self.down = down.requires_grad_()
        self.up = torch.zeros(network.out_features, LORA_RANK, requires_grad=True)
        self.handle = network.register_forward_hook(self._add)

    def _add(self, _: nn.Module, given: tuple[Any, ...], returned: Tensor) -> Tensor:
        added: Tensor = given[0] @ self.down.T @ self.up.T
        return returned + added


def _write_lora(base: Path, style: str, layers: dict[Module, _Lora], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.items():
        assert module.output_name is not None
        tensors |= lora_tensors(module.output_name, layer.up.detach(), layer.down.detach(), None, torch.float32)
    metadata = {
        "ss_output_name": path.stem,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(LORA_RANK),
        "ss_network_alpha": str(LORA_RANK),
        "ss_sd_model_name": base.name,
        "ss_sd_model_hash": legacy_a1111_hash(base),
        "ss_new_sd_model_hash": file_sha256(base),
        "modelspec.trigger_phrase": pictures.STYLES[style],
    }
    write_adapter(path, tensors, metadata, overwrite=True)


@dataclass(frozen=True, eq=False)
class _Batch:
    latents: Tensor
    noise: Tensor
    times: Tensor
    prompts: tuple[str, ...]


def _batch(base: Base, generator: torch.Generator, domain: str, style: str | None) -> _Batch:
    shown = pictures.draw(BATCH, generator, domain, style)
    latents = base.autoencoder.encode(shown.pixels)
    noise = torch.randn(latents.shape, generator=generator)
    empty = (torch.rand(BATCH, generator=generator) < NO_WORDS).tolist()
    prompts = tuple("" if none else prompt for none, prompt in zip(empty, shown.prompts, strict=True))
    # One time in each of as many stretches, so that batches differ less.
    times = (torch.randperm(BATCH, generator=generator) + torch.rand(BATCH, generator=generator)) / BATCH
    return _Batch(latents, noise, times.clamp(max=1.0), prompts)


def _descend(what: str, parameters: list[Tensor], loss: Callable[[], Tensor], steps: int, rate: float) -> None:
    """AdamW with a short rise of the learning rate and a cosine down to nothing."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    rise = min(100, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / (rise + 1)) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    began, recent = time.monotonic(), 0.0
    for step in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        recent = 0.98 * recent + 0.02 * value.item()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            shown = recent / (1 - 0.98 ** (step + 1))
            print(f"  {what}: step {step + 1}/{steps}, loss {shown:.4f}, {time.monotonic() - began:.0f} s", flush=True)
