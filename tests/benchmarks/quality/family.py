"""The models of the benchmark: one base and what is made from it, and two of another architecture.

All have the layout of a real base, a few numbers wide, so that their checkpoints are files the product reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib_transfer.architecture import modules, recognise
from lib_transfer.architecture.expansion import Expansion, Origin, origins
from lib_transfer.architecture.module import Module
from lib_transfer.models import Schedule, TorchModel, places
from tests.benchmarks.quality import latents, pictures
from tests.benchmarks.quality.transformer import Transformer
from tests.benchmarks.quality.unet import unet

SIDE = pictures.SIZE // latents.PATCH
BLOCKS = 6

EXPANSION = Expansion(BLOCKS, 9, ((2, 1), (5, 3), (8, 5)))
"""How the deeper relative was made: a copy behind every second block, as in Anima's with 40 blocks."""

KEPT = (0, 1, 3, 5)
"""The blocks that the pruned relative has."""

ZEROED = ("self_attn.output_proj", "cross_attn.output_proj", "mlp.layer2")
"""What is zero in a copy before it is trained, so that at first it does nothing."""


@dataclass(frozen=True)
class Layout:
    """What a base is built from.

    Attributes:
        blocks: of the transformer; 0 for a UNet.
        context: width of the text's states.
        words: the seed of its text encoder.
        autoencoder: the name of its latents.
    """

    blocks: int
    context: int
    words: int
    autoencoder: str


LAYOUTS: Mapping[str, Layout] = {
    "transformer": Layout(BLOCKS, 32, 1, "jpeg"),
    "pruned": Layout(len(KEPT), 32, 1, "jpeg"),
    "deep": Layout(EXPANSION.deep, 32, 1, "jpeg"),
    "unet": Layout(0, 48, 2, "jpeg"),
    "unet, mixed": Layout(0, 48, 2, "mixed"),
}


@dataclass(frozen=True)
class Recipe:
    """How a base comes about.

    Attributes:
        name: of the base, and of its file.
        layout: one of :data:`LAYOUTS`.
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
    Recipe("base", "transformer", "plain", 5000, 2e-3),
    *(Recipe(domain, "transformer", domain, 250, 5e-4, "base") for domain in pictures.DRIFTS if domain != "plain"),
    Recipe("far", "transformer", pictures.FAR, 1000, 2e-3, "base"),
    Recipe("pruned", "pruned", "plain", 600, 1e-3, "base", taught=True),
    Recipe("deep", "deep", "plain", 600, 1e-3, "base"),
    Recipe("unrelated", "unet", "plain", 2500, 3e-3),
    Recipe("unrelated, other latents", "unet, mixed", "plain", 1500, 2e-3, "unrelated"),
    Recipe("unrelated, drift 5", "unet", "drift 5", 200, 1e-3, "unrelated"),
)


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
        built = LAYOUTS[layout]
        self.network: nn.Module = (
            Transformer(built.blocks, latents.CHANNELS, SIDE, built.context)
            if built.blocks
            else unet(latents.CHANNELS, SIDE, built.context)
        )
        self.words = Words(built.context, built.words)
        self.autoencoder = latents.autoencoder(built.autoencoder)
        self.schedule = Schedule.stable_diffusion()

    def forward(self, noised: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        """The noise in ``noised`` ``(n, 6, 8, 8)``."""
        predicted: Tensor = self.network(noised, steps, self.words(prompts))
        return predicted

    def inherit(self, parent: Base) -> None:
        """Take the weights of the base that this one is made from."""
        theirs = parent.network.state_dict()
        mine = {key: theirs[name] for key in self.network.state_dict() if (name := self._inherited(key)) is not None}
        self.network.load_state_dict(mine, strict=False)
        for key, weight in self.network.state_dict().items():
            if key not in mine:
                weight.zero_()

    def _inherited(self, key: str) -> str | None:
        """The parent's weight that one of this base's begins as; None where it begins as zero."""
        if not isinstance(self.network, Transformer) or not key.startswith("blocks."):
            return key
        _, number, rest = key.split(".", 2)
        origin = origins_of(len(self.network.blocks))[int(number)]
        if not origin.own and rest.removesuffix(".weight") in ZEROED:
            return None
        return f"blocks.{origin.block}.{rest}"

    def found(self) -> dict[str, tuple[Module, nn.Module]]:
        """Every module of the checkpoint by canonical name: what the product says of it, and the network's own."""
        shapes = {key: tuple(tensor.shape) for key, tensor in self.network.state_dict().items()}
        listed = modules(recognise(shapes), shapes)
        return {m.name: (m, self.network.get_submodule(m.weight.removesuffix(".weight"))) for m in listed}

    def adaptable(self) -> dict[str, tuple[Module, nn.Linear]]:
        """The modules that LoRAs change: the linear ones of attentions and feed-forwards."""
        return {
            name: (module, network)
            for name, (module, network) in self.found().items()
            if isinstance(network, nn.Linear) and module.position.role.startswith(ROLES)
        }

    def running(self) -> TorchModel:
        """The base as the product runs it."""
        found = self.found()
        return TorchModel(
            places({name: network for name, (_, network) in found.items()}),
            self,
            self.schedule,
            (latents.CHANNELS, SIDE, SIDE),
            latent_space=self.autoencoder.name,
            encode=self.autoencoder.encode,
            decode=self.autoencoder.decode,
            differentiable=True,
            together=8,
        )


ROLES = ("self_attn", "cross_attn", "mlp", "attn1", "attn2", "ff")


def origins_of(blocks: int) -> tuple[Origin, ...]:
    """What every block of a relative with so many blocks was made from."""
    if blocks == len(KEPT):
        return tuple(Origin(block, own=True) for block in KEPT)
    found = origins([EXPANSION], BLOCKS, blocks)
    assert found is not None
    return found
