"""The UNet of Stable Diffusion (CompVis/stable-diffusion, ``openaimodel.py``; for XL Stability-AI/generative-models)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_transfer.models.networks.leaves import Leaves
from lib_transfer.models.networks.transformer import SpatialTransformer, TransformerBlock

HEADS_OF_SD1 = 8

_PATHS = {"downward": "input_blocks", "middle": "middle_block", "upward": "output_blocks"}


class ResidualBlock(nn.Module):
    """Two convolutions; the embedded time is added in between."""

    def __init__(self, leaves: Leaves) -> None:
        super().__init__()
        self.norm1, self.norm2 = (leaves.norm(f"{part}_layers.0", 1e-5, groups=32) for part in ("in", "out"))
        self.conv1, self.conv2 = leaves.convolution("in_layers.2"), leaves.convolution("out_layers.3")
        self.time = leaves.linear("emb_layers.1")
        self.skip = leaves.convolution("skip_connection") if "skip_connection" in leaves else None

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """The block's result, for ``x`` ``(n, channels, height, width)`` and the time ``embedded`` ``(n, width)``."""
        inner = self.conv1(functional.silu(self.norm1(x))) + self.time(functional.silu(embedded))[:, :, None, None]
        inner = self.conv2(functional.silu(self.norm2(inner)))
        result: Tensor = inner + (x if self.skip is None else self.skip(x))
        return result


class Stage(nn.Module):
    """One of the numbered blocks: a convolution, a residual block, a transformer or a change of size, as many as it has."""

    def __init__(self, leaves: Leaves, heads: int | None) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for number in leaves.numbers():
            below = leaves.below(str(number))
            self.parts[str(number)] = self._part(leaves, str(number), below, heads)

    @staticmethod
    def _part(leaves: Leaves, number: str, below: Leaves, heads: int | None) -> nn.Module:
        if "in_layers" in below:
            return ResidualBlock(below)
        if "transformer_blocks" in below:
            return SpatialTransformer(below, heads)
        if "op" in below:
            return Down(below)
        return Up(below) if "conv" in below else leaves.convolution(number)

    def forward(self, x: Tensor, embedded: Tensor, context: Tensor) -> Tensor:
        """The feature map behind it, for ``x`` ``(n, channels, height, width)``."""
        for part in self.parts.values():
            if isinstance(part, ResidualBlock):
                x = part(x, embedded)
            elif isinstance(part, SpatialTransformer):
                x = part(x, context)
            else:
                x = part(x)
        return x


class Down(nn.Module):
    """A convolution that halves height and width."""

    def __init__(self, leaves: Leaves) -> None:
        super().__init__()
        self.op = leaves.convolution("op")
        self.op.stride = (2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map behind it, for ``x`` ``(n, channels, height, width)``."""
        result: Tensor = self.op(x)
        return result


class Up(nn.Module):
    """A convolution of the feature map at twice the height and width."""

    def __init__(self, leaves: Leaves) -> None:
        super().__init__()
        self.conv = leaves.convolution("conv")

    def forward(self, x: Tensor) -> Tensor:
        """The feature map behind it, for ``x`` ``(n, channels, height, width)``."""
        result: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class UNet(nn.Module):
    """The whole network.

    Args:
        leaves: its layers, named as in a single-file checkpoint below ``model.diffusion_model.``.
        heads: the number of heads of every attention; None where each head has 64 channels.

    Raises:
        UnsupportedError: a layer is missing.
    """

    def __init__(self, leaves: Leaves, heads: int | None) -> None:
        super().__init__()
        self.time = nn.ModuleList([leaves.linear("time_embed.0"), leaves.linear("time_embed.2")])
        self.width = leaves.linear("time_embed.0").in_features
        labels = ("label_emb.0.0", "label_emb.0.2") if "label_emb" in leaves else ()
        # The width of the vector that XL is given beside the context; 0 where it is given none.
        self.vector = leaves.linear("label_emb.0.0").in_features if labels else 0
        self.label = nn.ModuleList([leaves.linear(name) for name in labels])
        # In forward order, because torch lists submodules in the order in which they were set.
        self.downward = self._stages(leaves.below("input_blocks"), heads)
        self.middle = Stage(leaves.below("middle_block"), heads)
        self.upward = self._stages(leaves.below("output_blocks"), heads)
        self.norm, self.last = leaves.norm("out.0", 1e-5, groups=32), leaves.convolution("out.2")

    @staticmethod
    def _stages(leaves: Leaves, heads: int | None) -> nn.ModuleDict:
        return nn.ModuleDict({str(n): Stage(leaves.below(str(n)), heads) for n in leaves.numbers()})

    def forward(self, x: Tensor, steps: Tensor, context: Tensor, vector: Tensor | None = None) -> Tensor:
        """The prediction for ``x`` ``(n, channels, height, width)``.

        Args:
            x: the noised latents.
            steps: the steps ``(n,)`` of the training's schedule.
            context: the encoded prompts ``(n, tokens, width)``.
            vector: the vector ``(n, width)`` that XL is given of each prompt and of the sizes.
        """
        embedded = _through(self.time, sinusoids(steps, self.width).to(x.dtype))
        if vector is not None:
            embedded = embedded + _through(self.label, vector)
        kept = []
        for stage in self.downward.values():
            x = stage(x, embedded, context)
            kept.append(x)
        x = self.middle(x, embedded, context)
        for stage in self.upward.values():
            x = stage(torch.cat([x, kept.pop()], dim=1), embedded, context)
        result: Tensor = self.last(functional.silu(self.norm(x)))
        return result

    def transformer_blocks(self) -> dict[str, TransformerBlock]:
        """The transformer blocks in forward order, by their path in a checkpoint below ``model.diffusion_model.``."""
        found = {}
        for path, module in self.named_modules():
            if isinstance(module, TransformerBlock):
                way, rest = path.split(".", 1)
                # The parts of a stage and the blocks of a transformer are numbered alike here and there.
                rest = rest.replace(".parts.", ".").replace("parts.", "").replace(".blocks.", ".transformer_blocks.")
                found[f"{_PATHS[way]}.{rest}"] = module
        return found


def sinusoids(steps: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of ``steps`` ``(n,)`` at frequencies from 1 down to 1/10000: ``(n, width)``, float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=steps.device) / half)
    angles = steps.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _through(two: nn.ModuleList, x: Tensor) -> Tensor:
    result: Tensor = two[1](functional.silu(two[0](x)))
    return result
