"""Tiny autoencoders with the key names of single-file checkpoints, written down from CompVis/stable-diffusion's ``model.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

AT = "first_stage_model."
Layer = tuple[str, tuple[int, ...]]
"""The name of a layer, and the shape of its weight."""


def autoencoder(width: int = 8, seed: int = 5) -> dict[str, Tensor]:
    """The tensors of an autoencoder, ``width`` channels wide in its first block."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in [*_encoder(width), *_decoder(width)]:
        random = torch.randn(shape, generator=generator)
        weight = 1 + 0.1 * random if len(shape) == 1 else random / math.sqrt(math.prod(shape[1:]))
        made |= {f"{AT}{name}.weight": weight, f"{AT}{name}.bias": 0.1 * torch.randn(shape[0], generator=generator)}
    return made


def _encoder(width: int) -> Iterator[Layer]:
    yield "encoder.conv_in", (width, 3, 3, 3)
    wide = width
    for level, out in enumerate((width, 2 * width, 4 * width, 4 * width)):
        for number in range(2):
            yield from _block(f"encoder.down.{level}.block.{number}", out, wide)
            wide = out
        if level < 3:
            yield f"encoder.down.{level}.downsample.conv", (wide, wide, 3, 3)
    yield from _middle("encoder.mid", wide)
    yield from (("encoder.norm_out", (wide,)), ("encoder.conv_out", (8, wide, 3, 3)), ("quant_conv", (8, 8, 1, 1)))


def _decoder(width: int) -> Iterator[Layer]:
    wide = 4 * width
    yield from (("post_quant_conv", (4, 4, 1, 1)), ("decoder.conv_in", (wide, 4, 3, 3)))
    yield from _middle("decoder.mid", wide)
    for level, out in ((3, 4 * width), (2, 4 * width), (1, 2 * width), (0, width)):
        for number in range(3):
            yield from _block(f"decoder.up.{level}.block.{number}", out, wide)
            wide = out
        if level:
            yield f"decoder.up.{level}.upsample.conv", (wide, wide, 3, 3)
    yield from (("decoder.norm_out", (wide,)), ("decoder.conv_out", (3, wide, 3, 3)))


def _middle(name: str, wide: int) -> Iterator[Layer]:
    yield from _block(f"{name}.block_1", wide, wide)
    yield f"{name}.attn_1.norm", (wide,)
    yield from ((f"{name}.attn_1.{part}", (wide, wide, 1, 1)) for part in ("q", "k", "v", "proj_out"))
    yield from _block(f"{name}.block_2", wide, wide)


def _block(name: str, out: int, into: int) -> Iterator[Layer]:
    yield from ((f"{name}.norm1", (into,)), (f"{name}.conv1", (out, into, 3, 3)))
    yield from ((f"{name}.norm2", (out,)), (f"{name}.conv2", (out, out, 3, 3)))
    if out != into:
        yield f"{name}.nin_shortcut", (out, into, 1, 1)
