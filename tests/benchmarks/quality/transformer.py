"""A diffusion transformer of any depth, in the layout of Cosmos-Predict2 and Anima, a few numbers wide."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEAD, NARROW, PATCH = 64, 16, 16, 2
"""Width of the stream, of a head, of the layer that modulations go through; positions of a latent on one side of a token."""


class Transformer(nn.Module):
    """The network.

    Args:
        blocks: how many there are.
        channels: of the latents.
        side: height and width of the latents.
        context: width of the text's states.
    """

    def __init__(self, blocks: int, channels: int, side: int, context: int) -> None:
        super().__init__()
        self.side = side // PATCH
        patch = channels * PATCH * PATCH
        self.x_embedder = nn.ModuleDict({"proj": nn.ModuleDict({"1": _linear(patch, WIDTH)})})
        self.t_embedder = nn.ModuleList(
            [nn.Identity(), nn.ModuleDict({"linear_1": _linear(WIDTH, WIDTH), "linear_2": _linear(WIDTH, 3 * WIDTH)})]
        )
        self.t_embedding_norm = nn.RMSNorm(WIDTH)
        self.blocks = nn.ModuleList([Block(context) for _ in range(blocks)])
        modulation, last = _modulation(2), _linear(WIDTH, patch)
        nn.init.zeros_(last.weight)
        self.final_layer = nn.ModuleDict({"adaln_modulation": modulation, "linear": last})
        self.register_buffer("places", _places(self.side), persistent=False)

    def forward(self, noised: Tensor, steps: Tensor, words: Tensor) -> Tensor:
        """The noise in ``noised`` ``(n, channels, side, side)`` at ``steps`` ``(n,)``, of words ``(n, 6, context)``."""
        tokens = functional.pixel_unshuffle(noised, PATCH).flatten(2).transpose(1, 2)
        embed: Any = self.x_embedder["proj"]
        stream = embed["1"](tokens) + self.places
        time = _waves(steps)
        layers: Any = self.t_embedder[1]
        shared = layers["linear_2"](functional.silu(layers["linear_1"](time)))
        time = functional.silu(self.t_embedding_norm(time))
        for block in self.blocks:
            stream = block(stream, time, shared, words)
        final: Any = self.final_layer
        shift, scale = (_modulated(final["adaln_modulation"], time) + shared[:, : 2 * WIDTH]).chunk(2, 1)
        stream = final["linear"](_normed(stream) * (1 + scale[:, None]) + shift[:, None])
        return functional.pixel_shuffle(stream.transpose(1, 2).unflatten(2, (self.side, self.side)), PATCH)


class Block(nn.Module):
    """Attention to the picture, attention to the text, feed-forward, each behind a modulated normalisation."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = Attention(WIDTH), Attention(context)
        self.mlp = nn.ModuleDict({"layer1": _linear(WIDTH, 4 * WIDTH), "layer2": _linear(4 * WIDTH, WIDTH)})
        for step in ("self_attn", "cross_attn", "mlp"):
            setattr(self, f"adaln_modulation_{step}", _modulation(3))

    def forward(self, stream: Tensor, time: Tensor, shared: Tensor, words: Tensor) -> Tensor:
        """The stream ``(n, tokens, width)`` behind the block."""
        mlp: Any = self.mlp
        for step in ("self_attn", "cross_attn", "mlp"):
            modulation = _modulated(getattr(self, f"adaln_modulation_{step}"), time) + shared
            shift, scale, gate = modulation[:, None].chunk(3, 2)
            x = _normed(stream) * (1 + scale) + shift
            if step == "mlp":
                x = mlp["layer2"](functional.gelu(mlp["layer1"](x)))
            else:
                x = getattr(self, step)(x, x if step == "self_attn" else words)
            stream = stream + gate * x
        return stream


class Attention(nn.Module):
    """Attention with normalised queries and keys."""

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.q_proj, self.output_proj = _linear(WIDTH, WIDTH), _linear(WIDTH, WIDTH)
        self.k_proj, self.v_proj = _linear(seen, WIDTH), _linear(seen, WIDTH)
        self.q_norm, self.k_norm = nn.RMSNorm(HEAD), nn.RMSNorm(HEAD)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """What ``x`` ``(n, tokens, width)`` takes from what is seen ``(n, others, width of it)``."""
        q, k, v = (
            projection(states).unflatten(2, (-1, HEAD)).transpose(1, 2)
            for projection, states in ((self.q_proj, x), (self.k_proj, seen), (self.v_proj, seen))
        )
        taken = functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        returned: Tensor = self.output_proj(taken.transpose(1, 2).flatten(2))
        return returned


def _linear(into: int, out: int) -> nn.Linear:
    return nn.Linear(into, out, bias=False)


def _modulation(parts: int) -> nn.ModuleList:
    layers = nn.ModuleList([nn.Identity(), _linear(WIDTH, NARROW), _linear(NARROW, parts * WIDTH)])
    nn.init.zeros_(layers[2].weight)  # type: ignore[arg-type]
    return layers


def _modulated(layers: Any, time: Tensor) -> Tensor:
    modulation: Tensor = layers[2](layers[1](time))
    return modulation


def _normed(stream: Tensor) -> Tensor:
    return functional.layer_norm(stream, (WIDTH,))


def _waves(steps: Tensor) -> Tensor:
    """Sines and cosines of the time ``(n, width)`` (Vaswani et al. 2017)."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(WIDTH // 2) / (WIDTH // 2))
    angles = steps.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def _places(side: int) -> Tensor:
    """Fixed numbers for the place of every token ``(tokens, width)``: its row's in one half, its column's in the other."""
    rates = torch.pi / side * torch.arange(1, WIDTH // 4 + 1) / 2
    angles = torch.arange(side)[:, None] * rates
    line = torch.cat([angles.cos(), angles.sin()], 1)
    return torch.cat([line.repeat_interleave(side, 0), line.repeat(side, 1)], 1)
