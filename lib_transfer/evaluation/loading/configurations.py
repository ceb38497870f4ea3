"""The configurations of the networks: data of ours, and what the shapes of a checkpoint's weights say.

The numbers are those of CompVis's and Stability AI's configurations (v1-inference.yaml, v2-inference.yaml, sd_xl_base.yaml), in
the words of diffusers and transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lib_transfer.architecture.clip import TEXT_LENGTH, Clip
from lib_transfer.architecture.unet import LATENT_CHANNELS, UNet
from lib_transfer.library.base import Base

SIZES = 6
"""The numbers that XL is told of a picture: the original's height and width, what was cropped above and left, the target's."""


@dataclass(frozen=True)
class Encoder:
    """How a family uses a text encoder.

    Attributes:
        activation: the function in its feed-forward parts, as transformers calls it.
        filler: the token that fills a prompt up behind its end.
        skip: the number of its last layers that the context leaves out at the usual Clip skip.
        normalised: whether the context goes through the last normalisation.
        pooled: whether it gives a vector too.
    """

    activation: str
    filler: int
    skip: int
    normalised: bool
    pooled: bool = False


@dataclass(frozen=True)
class Family:
    """What a base of one family is made of.

    Attributes:
        encoders: the text encoders, in the order of the architecture's; their contexts lie side by side.
        heads: the number of heads of the UNet's attentions; None where each head has 64 channels.
        scale: what latents are multiplied by, so that their deviation is about 1.
        empty_is_zero: whether the model was trained with zeros in place of an empty prompt.
    """

    encoders: tuple[Encoder, ...]
    heads: int | None
    scale: float
    empty_is_zero: bool = False


_END = 49407
FAMILIES = {
    "sd1": Family((Encoder("quick_gelu", _END, 0, True),), 8, 0.18215),
    "sd2": Family((Encoder("gelu", 0, 1, True),), None, 0.18215),
    "sdxl": Family(
        (Encoder("quick_gelu", _END, 1, False), Encoder("gelu", 0, 1, False, pooled=True)), None, 0.13025, True
    ),
}


def unet_config(base: Base, family: Family) -> dict[str, Any]:
    """Of ``UNet2DConditionModel``: every block as deep as the deepest of its resolution; what is too much is taken out."""
    core = base.architecture.core
    assert isinstance(core, UNet)
    shapes = {
        m.name.removeprefix(core.key_layouts[0].prefix): m.shape for m in base.modules if m.position.part == "unet"
    }
    width = shapes["input_blocks.0.0"][0]
    widths = tuple(width * multiplier for multiplier in core.multipliers)
    down, up = core.input_depths, core.output_depths
    deepest = [max(*here, *there) for here, there in zip(down, reversed(up), strict=True)]
    deepest[-1] = max(deepest[-1], core.middle_depth or 0)
    config: dict[str, Any] = {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": widths,
        "layers_per_block": len(down[0]),
        "down_block_types": tuple("CrossAttnDownBlock2D" if any(depths) else "DownBlock2D" for depths in down),
        "up_block_types": tuple("CrossAttnUpBlock2D" if any(depths) else "UpBlock2D" for depths in up),
        "mid_block_type": (
            "UNetMidBlock2DCrossAttn" if any(path.startswith("middle_block.") for path in shapes) else None
        ),
        "transformer_layers_per_block": tuple(max(depth, 1) for depth in deepest),
        "cross_attention_dim": next((s[1] for path, s in shapes.items() if path.endswith("attn2.to_k")), width),
        # What diffusers calls the dimension of a head is the number of heads.
        "attention_head_dim": tuple(family.heads or max(wide // 64, 1) for wide in widths),
        "use_linear_projection": core.linear_projection,
        "norm_num_groups": _groups(width),
    }
    if core.vector:
        vector = shapes["label_emb.0.0"][1]
        pooled = sum(core.vector[:1]) * vector // sum(core.vector)
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (vector - pooled) // SIZES,
            "projection_class_embeddings_input_dim": vector,
        }
    return config


def text_config(base: Base, layout: Clip, encoder: Encoder) -> dict[str, Any]:
    """Of ``CLIPTextConfig``, with as many layers as the checkpoint has."""
    modules = [module for module in base.modules if module.position.part == layout.part]
    shapes = {module.position.role: module.shape for module in modules}
    words, width = shapes["token_embedding"]
    return {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": shapes["mlp.fc1"][0],
        "num_hidden_layers": len({module.position.unit for module in modules if module.position.unit}),
        "num_attention_heads": max(width // 64, 1),
        "max_position_embeddings": TEXT_LENGTH,
        "projection_dim": shapes.get("text_projection", (width,))[0],
        "hidden_act": encoder.activation,
        # transformers takes this as a sign that the token with the largest number ends a prompt.
        "eos_token_id": 2,
        "bos_token_id": 0,
    }


def autoencoder_config(width: int) -> dict[str, Any]:
    """Of ``AutoencoderKL``, which is the same for all families but for its weights.

    Args:
        width: the channels of its first block.
    """
    return {
        "block_out_channels": tuple(width * multiplier for multiplier in (1, 2, 4, 4)),
        "layers_per_block": 2,
        "latent_channels": LATENT_CHANNELS,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": _groups(width),
    }


def _groups(width: int) -> int:
    """Of the normalisations. Tiny models made for tests may have fewer channels than there are groups."""
    return math.gcd(32, width)
