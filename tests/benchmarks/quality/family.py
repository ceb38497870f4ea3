"""The models of the benchmark: one base and what is made from it, and one of another architecture.

All have the layout of a real base, a few channels wide, so that their checkpoints are files the product reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lib_transfer.architecture import modules, recognise
from lib_transfer.architecture.module import Module
from lib_transfer.models import Schedule, TorchModel, places
from tests.benchmarks.quality import latents, pictures

WIDTHS = (32, 48, 48, 48)
OTHER_WIDTHS = (40, 56, 56, 56)
SIDE = pictures.SIZE // latents.PATCH

TRIMMED = (
    *(f"down_blocks.3.resnets.{i}" for i in range(2)),
    *(f"up_blocks.0.resnets.{i}" for i in range(3)),
    "down_blocks.2.downsamplers.0",
    "up_blocks.0.upsamplers.0",
)
"""What every base lacks: pictures this small have no use for a fourth resolution."""

PRUNED = (
    *(f"down_blocks.{i}.attentions.1" for i in range(3)),
    "mid_block.attentions.0",
    *(f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in (1, 2)),
)
"""Attentions that the pruned relative lacks; the residual blocks before them stay."""

OTHER_LACKS = tuple(f"up_blocks.{i}.attentions.1" for i in range(1, 4))
"""Those that the unrelated base lacks, so that it has other blocks too."""


@dataclass(frozen=True)
class Recipe:
    """How a base comes about.

    Attributes:
        name: of the base, and of its file.
        layout: ``sd1``, ``pruned`` (the same without :data:`PRUNED`) or ``other``.
        domain: of the pictures it is trained on.
        steps: of its training.
        rate: the highest learning rate.
        parent: the base whose weights it begins with; None for new ones.
        taught: whether it learns from what its parent predicts too (distillation).
    """

    name: str
    layout: str
    domain: str
    steps: int
    rate: float
    parent: str | None = None
    taught: bool = False


RECIPES = (
    Recipe("base", "sd1", "plain", 2500, 2e-3),
    Recipe("mild", "sd1", "mild", 200, 5e-4, "base"),
    Recipe("far", "sd1", "far", 700, 2e-3, "base"),
    Recipe("pruned", "pruned", "plain", 800, 2e-3, "base", taught=True),
    Recipe("unrelated", "other", "plain", 2000, 2e-3),
)


class Gone(nn.Module):
    """In place of an attention that was cut out: what comes in goes on."""

    def forward(self, stream: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        """The stream as it is, in the form that diffusers expects."""
        return (stream,)


class Left(nn.Module):
    """In place of another part that was cut out: what comes in goes on, without what was laid beside it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, stream: Tensor, *_: Any, **__: Any) -> Tensor:
        """The first channels of the stream."""
        return stream[:, : self.channels]


class Words(nn.Module):
    """A text encoder that looks every word up in a table of fixed random numbers; no words give an empty line."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(len(pictures.WORDS) + 1, width, generator=generator)
        self.places = 0.3 * torch.randn(pictures.LENGTH, width, generator=generator)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """States ``(n, 6, width)``."""
        numbers = torch.zeros(len(prompts), pictures.LENGTH, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            for place, word in enumerate(prompt.split()):
                numbers[row, place] = 1 + pictures.WORDS.index(word)
        states: Tensor = self.table[numbers] + self.places
        return states


class Base(nn.Module):
    """One base: network, text encoder, autoencoder, noise schedule."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.unet: nn.Module = _other() if layout == "other" else _sd1()
        _cut(self.unet, TRIMMED, lambda: Left(OTHER_WIDTHS[-1] if layout == "other" else WIDTHS[-1]))
        if layout != "sd1":
            _cut(self.unet, PRUNED if layout == "pruned" else OTHER_LACKS, Gone)
        self.words = Words(48, 2) if layout == "other" else Words(32, 1)
        self.autoencoder = latents.autoencoder("mixed" if layout == "other" else "jpeg")
        self.schedule = Schedule.stable_diffusion()

    def forward(self, noised: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        """The noise in ``noised`` ``(n, 6, 8, 8)``."""
        predicted: Tensor = self.unet(noised, steps, self.words(prompts), return_dict=False)[0]
        return predicted

    def found(self) -> dict[str, tuple[Module, nn.Module]]:
        """Every module of the checkpoint by canonical name: what the product says of it, and the network's own."""
        shapes = {key: tuple(tensor.shape) for key, tensor in self.unet.state_dict().items()}
        listed = modules(recognise(shapes), shapes)
        return {m.name: (m, self.unet.get_submodule(m.weight.removesuffix(".weight"))) for m in listed}

    def running(self) -> TorchModel:
        """The base as the product runs it."""
        found = self.found()
        blocks = _blocks(found)
        return TorchModel(
            places({name: network for name, (_, network) in found.items()}),
            self,
            self.schedule,
            (latents.CHANNELS, SIDE, SIDE),
            blocks={unit: self.unet.get_submodule(path) for unit, path in blocks.items()},
            latent_space=self.autoencoder.name,
            encode=self.autoencoder.encode,
            decode=self.autoencoder.decode,
            differentiable=True,
        )


def _cut(network: nn.Module, paths: Iterable[str], instead: Callable[[], nn.Module]) -> None:
    for path in paths:
        parent, _, last = path.rpartition(".")
        parts = network.get_submodule(parent)
        assert isinstance(parts, nn.ModuleList)
        parts[int(last)] = instead()


def _blocks(found: Mapping[str, tuple[Module, nn.Module]]) -> dict[str, str]:
    """The transformer blocks in forward order: canonical path and the network's own."""
    last = "attn1.to_q"
    of_blocks = sorted(
        (module for module, _ in found.values() if module.position.role == last), key=lambda m: m.position.depth
    )
    return {m.name.removesuffix(f".{last}"): m.weight.removesuffix(f".{last}.weight") for m in of_blocks}


def _sd1() -> nn.Module:
    """Stable Diffusion 1: four resolutions, two blocks each."""
    return _unet(block_out_channels=WIDTHS, cross_attention_dim=32)


def _other() -> nn.Module:
    """Stable Diffusion 2: other widths, another text encoder, linear layers around the transformers."""
    return _unet(block_out_channels=OTHER_WIDTHS, cross_attention_dim=48, use_linear_projection=True)


def _unet(**layout: Any) -> nn.Module:
    common = {
        "in_channels": latents.CHANNELS,
        "out_channels": latents.CHANNELS,
        "layers_per_block": 2,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
        "sample_size": SIDE,
    }
    unet: Any = UNet2DConditionModel(**common, **layout)  # type: ignore[no-untyped-call]
    assert isinstance(unet, nn.Module)
    return unet
