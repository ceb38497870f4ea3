"""CLIP's text encoder, in Hugging Face's names and in OpenCLIP's (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_transfer.models.networks.leaves import Leaves

LENGTH, START, END = 77, 49406, 49407
"""The number of tokens of a prompt, and the tokens that begin and end it."""


@dataclass(frozen=True)
class _Names:
    """The names of an encoder's parts in a checkpoint."""

    token: str
    position: str
    layers: str
    norm1: str
    norm2: str
    attention: str
    out: str
    up: str
    down: str
    last: str


_HUGGING_FACE = _Names(
    "embeddings.token_embedding", "embeddings.position_embedding", "encoder.layers", "layer_norm1", "layer_norm2",
    "self_attn.{}_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2", "final_layer_norm",
)  # fmt: skip
_OPEN_CLIP = _Names(
    "token_embedding", "positional_embedding", "transformer.resblocks", "ln_1", "ln_2",
    "attn.in_proj.{}", "attn.out_proj", "mlp.c_fc", "mlp.c_proj", "ln_final",
)  # fmt: skip


class _Layer(nn.Module):
    def __init__(self, leaves: Leaves, names: _Names, gelu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm1, self.norm2 = leaves.norm(names.norm1, 1e-5), leaves.norm(names.norm2, 1e-5)
        self.qkv = nn.ModuleList([leaves.linear(names.attention.format(part)) for part in "qkv"])
        self.out, self.up, self.down = (leaves.linear(name) for name in (names.out, names.up, names.down))
        self.heads, self.gelu = max(self.out.in_features // 64, 1), gelu

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm1(x)
        q, k, v = (part(normal).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        result: Tensor = x + self.down(self.gelu(self.up(self.norm2(x))))
        return result


class TextEncoder(nn.Module):
    """A text encoder.

    Args:
        leaves: its layers, named as in a checkpoint below the encoder's own path.
        projection: makes the vector of the prompt's end; None where it gives no vector.
        skip: the number of its last layers that the context leaves out.
        normalised: whether the context goes through the last normalisation.

    Raises:
        UnsupportedError: a layer is missing.
    """

    def __init__(self, leaves: Leaves, projection: nn.Linear | None, *, skip: int, normalised: bool) -> None:
        super().__init__()
        open_clip = "token_embedding" in leaves
        names = _OPEN_CLIP if open_clip else _HUGGING_FACE
        gelu = functional.gelu if open_clip else quick_gelu
        self.token, self.position = leaves.embedding(names.token), leaves.embedding(names.position)
        layers = leaves.below(names.layers)
        self.layers = nn.ModuleList([_Layer(layers.below(str(n)), names, gelu) for n in layers.numbers()])
        self.last = leaves.norm(names.last, 1e-5)
        self.projection, self.skip, self.normalised = projection, skip, normalised
        self.filler = 0 if open_clip else END
        """The token that fills a prompt up behind its end."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The context ``(n, 77, width)``, and the vector ``(n, width)`` of ``tokens`` ``(n, 77)``."""
        tokens = tokens.clamp(max=self.token.num_embeddings - 1)
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        context, last = x, len(self.layers) - self.skip
        for number, layer in enumerate(self.layers, 1):
            x = layer(x)
            if number == last:
                context = x
        context = self.last(context) if self.normalised else context
        if self.projection is None:
            return context, None
        # The end has the largest number; the first of them counts.
        ends = tokens.argmax(dim=1)
        return context, self.projection(self.last(x)[torch.arange(len(tokens), device=x.device), ends])


def quick_gelu(x: Tensor) -> Tensor:
    """``x sigmoid(1.702 x)``, as OpenAI's CLIP has it."""
    return x * torch.sigmoid(1.702 * x)
