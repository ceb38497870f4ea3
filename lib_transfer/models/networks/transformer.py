"""Transformer blocks of the UNet (CompVis/stable-diffusion, ``ldm/modules/attention.py``)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lib_transfer.models.networks.leaves import Leaves


class Attention(nn.Module):
    """Attention of a residual stream to a context, or to itself.

    Args:
        leaves: its layers.
        heads: the number of heads; None where each head has 64 channels.
    """

    def __init__(self, leaves: Leaves, heads: int | None) -> None:
        super().__init__()
        self.q, self.k, self.v = (leaves.linear(f"to_{part}") for part in "qkv")
        self.out = leaves.linear("to_out.0")
        self.heads = heads or max(self.q.out_features // 64, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """What is added to ``x`` ``(n, tokens, width)``; ``context`` is ``(n, others, width of the context)``."""
        parts = (self.q(x), self.k(context), self.v(context))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed: Tensor = self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a gated feed-forward, each added to the residual stream."""

    def __init__(self, leaves: Leaves, heads: int | None) -> None:
        super().__init__()
        self.norms = nn.ModuleList([leaves.norm(f"norm{number}", 1e-5) for number in (1, 2, 3)])
        self.attn1, self.attn2 = (Attention(leaves.below(name), heads) for name in ("attn1", "attn2"))
        self.gate, self.down = leaves.linear("ff.net.0.proj"), leaves.linear("ff.net.2")

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """The stream behind the block, of the shape of ``x`` ``(n, tokens, width)``."""
        own = self.norms[0](x)
        x = x + self.attn1(own, own)
        x = x + self.attn2(self.norms[1](x), context)
        value, gate = self.gate(self.norms[2](x)).chunk(2, dim=-1)
        result: Tensor = x + self.down(value * functional.gelu(gate))
        return result


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map."""

    def __init__(self, leaves: Leaves, heads: int | None) -> None:
        super().__init__()
        self.norm = leaves.norm("norm", 1e-6, groups=32)
        self.into, self.out = leaves.mixing("proj_in"), leaves.mixing("proj_out")
        inner = leaves.below("transformer_blocks")
        self.blocks = nn.ModuleList([TransformerBlock(inner.below(str(n)), heads) for n in inner.numbers()])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """The feature map behind the blocks, of the shape of ``x`` ``(n, channels, height, width)``."""
        tokens = _mixed(self.into, self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, context)
        return x + _mixed(self.out, tokens).transpose(1, 2).reshape(x.shape)


def _mixed(layer: nn.Linear | nn.Conv2d, tokens: Tensor) -> Tensor:
    """``layer`` on tokens ``(n, tokens, width)``; a convolution of one pixel gets them as a picture of one row."""
    if isinstance(layer, nn.Linear):
        mixed: Tensor = layer(tokens)
    else:
        mixed = layer(tokens.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
    return mixed
