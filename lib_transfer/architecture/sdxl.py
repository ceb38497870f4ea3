"""Stable Diffusion XL: base, its distilled relatives, and its refiner.

Depths of SSD-1B and Vega: Segmind's released checkpoints; of KOALA: its paper (arXiv 2312.04005), table of blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.clip import clip_g, clip_l, hf_key_layouts, projecting
from lib_transfer.architecture.layout import KeyLayout
from lib_transfer.architecture.names import text_namings
from lib_transfer.architecture.unet import UNet, unet_namings

_UNET = UNet(
    input_depths=((0, 0), (2, 2), (10, 10)),
    middle_depth=10,
    output_depths=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
    multipliers=(1, 2, 4),
    context=(768, 1280),
    # The pooled text of the second encoder, and six numbers (sizes and crop) of 256 frequencies each.
    vector=(1280, 6 * 256),
    linear_projection=True,
    # A1111 maps lora_unet_up_blocks_0_upsamplers_0_conv to a block that SDXL does not have.
    output="ldm",
    model="sdxl-unet",
)

SDXL = Architecture(
    id="sdxl",
    title="Stable Diffusion XL",
    family="sdxl",
    card_version="SDXL",
    base_model_version="sdxl_base_v1-0",
    v2=False,
    modelspec_architecture="stable-diffusion-xl-v1-base/lora",
    modelspec_implementation="https://github.com/Stability-AI/generative-models",
    core=_UNET,
    text_encoders=(
        clip_l("te1", *hf_key_layouts("conditioner.embedders.0.transformer.", "text_encoder.")),
        # A1111 passes over an update of the projection without harm.
        projecting(
            clip_g("te2", KeyLayout("conditioner.embedders.1.model.", "openclip"), *hf_key_layouts("text_encoder_2."))
        ),
    ),
    also_loaded=(("ldm", "lora_unet_"), ("diffusers", "lora_unet_")),
    # A1111 does not know these, and looks for the first upsampler at a place that it does not have here.
    not_loaded=("up_blocks_0_upsamplers", "add_embedding", "conv_norm_out"),
    namings=(
        *unet_namings("ldm"),
        *text_namings("te1", underscored=("lora_te1_",), folder="text_encoder.", comfy="clip_l"),
        *text_namings("te2", underscored=("lora_te2_",), folder="text_encoder_2.", comfy="clip_g"),
    ),
    # Of the first encoder it reads the states before the last layer (hidden layer 11), and nothing else.
    idle=frozenset({("te1", "layer 11"), ("te1", "final")}),
)


def _distilled(name: str, title: str, **unet: Any) -> Architecture:
    """A relative of SDXL whose UNet differs in these attributes."""
    return replace(SDXL, id=name, title=title, core=replace(_UNET, model=f"{name}-unet", **unet))


SSD_1B = _distilled(
    "ssd-1b",
    "SSD-1B",
    input_depths=((0, 0), (2, 2), (4, 4)),
    middle_depth=None,
    output_depths=((4, 4, 10), (2, 1, 1), (0, 0, 0)),
)

VEGA = _distilled(
    "vega",
    "Segmind-Vega",
    input_depths=((0, 0), (1, 1), (2, 2)),
    middle_depth=None,
    output_depths=((2, 2, 2), (1, 1, 1), (0, 0, 0)),
)

KOALA_700M = _distilled(
    "koala-700m",
    "KOALA-700M",
    input_depths=((0,), (2,), (5,)),
    middle_depth=None,
    middle=False,
    output_depths=((5, 5), (2, 2), (0, 0)),
)

KOALA_1B = _distilled(
    "koala-1b",
    "KOALA-1B",
    input_depths=((0,), (2,), (6,)),
    middle_depth=6,
    output_depths=((6, 6), (2, 2), (0, 0)),
)

REFINER = Architecture(
    id="sdxl-refiner",
    title="Stable Diffusion XL refiner",
    family="sdxl-refiner",
    card_version="SDXL",
    base_model_version="sdxl_refiner_v1-0",
    v2=False,
    modelspec_architecture="stable-diffusion-xl-v1-refiner/lora",
    modelspec_implementation="https://github.com/Stability-AI/generative-models",
    core=UNet(
        input_depths=((0, 0), (4, 4), (4, 4), (0, 0)),
        middle_depth=4,
        output_depths=((0, 0, 0), (4, 4, 4), (4, 4, 4), (0, 0, 0)),
        multipliers=(1, 2, 4, 4),
        context=(1280,),
        # The pooled text, and five numbers (sizes, crop and aesthetic score).
        vector=(1280, 5 * 256),
        linear_projection=True,
        output="ldm",
        model="sdxl-refiner-unet",
        width=384,
    ),
    text_encoders=(
        clip_g("te1", KeyLayout("conditioner.embedders.0.model.", "openclip"), *hf_key_layouts("text_encoder_2.")),
    ),
    also_loaded=(("ldm", "lora_unet_"), ("diffusers", "lora_unet_")),
    # A1111 looks for the first upsampler at a place that it does not have here.
    not_loaded=("up_blocks_0_upsamplers",),
    namings=(
        *unet_namings("ldm"),
        *text_namings("te1", underscored=("lora_te_", "lora_te2_"), folder="text_encoder_2.", comfy="clip_g"),
    ),
)
