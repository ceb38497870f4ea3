"""Stable Diffusion 1.x: 1.4, 1.5, inpainting, pix2pix, and everything trained from them."""

from __future__ import annotations

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.clip import Clip
from lib_transfer.architecture.names import Family
from lib_transfer.architecture.unet import UNet

SD1 = Architecture(
    id="sd1",
    title="Stable Diffusion 1.x",
    card_version="SD1",
    base_model_version="sd_v1",
    v2=False,
    modelspec_architecture="stable-diffusion-v1/lora",
    modelspec_implementation="diffusers",
    core=UNet(
        input_depths=((1, 1), (1, 1), (1, 1), (0, 0)),
        middle_depth=1,
        output_depths=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        multipliers=(1, 2, 4, 4),
        context=(768,),
        vector=(),
        linear_projection=False,
        output="diffusers",
    ),
    text_encoders=(
        Clip(
            part="te1",
            # Files from before 2023 lack the text_model level.
            prefixes=("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
            width=768,
            layers=12,
        ),
    ),
    families=(
        Family("unet", "diffusers", "lora_unet_"),
        Family("unet", "ldm", "lora_unet_"),
        Family("unet", "diffusers", "oft_unet_"),
        Family("unet", "ldm", "oft_unet_"),
        Family("te1", "hf", "lora_te_"),
        Family("te1", "hf", "lora_te1_"),
        Family("te1", "hf without text_model", "lora_te_"),
        Family("te1", "hf without text_model", "lora_te1_"),
    ),
)
