"""Stable Diffusion XL base, and everything trained from it: Pony, Illustrious, NoobAI, Turbo, Lightning, ..."""

from __future__ import annotations

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.clip import Clip
from lib_transfer.architecture.names import Family
from lib_transfer.architecture.unet import UNet

SDXL = Architecture(
    id="sdxl",
    title="Stable Diffusion XL",
    card_version="SDXL",
    base_model_version="sdxl_base_v1-0",
    v2=False,
    modelspec_architecture="stable-diffusion-xl-v1-base/lora",
    modelspec_implementation="https://github.com/Stability-AI/generative-models",
    core=UNet(
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
    ),
    text_encoders=(
        Clip(
            part="te1",
            prefixes=("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.0.transformer."),
            width=768,
            layers=12,
        ),
        Clip(part="te2", prefixes=("conditioner.embedders.1.model.",), width=1280, layers=32, openclip=True),
    ),
    families=(
        Family("unet", "ldm", "lora_unet_"),
        Family("unet", "diffusers", "lora_unet_"),
        Family("unet", "ldm", "oft_unet_"),
        Family("unet", "diffusers", "oft_unet_"),
        Family("te1", "hf", "lora_te1_"),
        Family("te1", "hf without text_model", "lora_te1_"),
        Family("te2", "hf", "lora_te2_"),
        Family("te2", "hf without text_model", "lora_te2_"),
    ),
)
