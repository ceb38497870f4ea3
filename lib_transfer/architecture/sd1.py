"""Stable Diffusion 1.x: 1.4, 1.5, inpainting, pix2pix, and everything trained from them."""

from __future__ import annotations

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.clip import clip_l, hf_key_layouts
from lib_transfer.architecture.names import dotted, text_namings
from lib_transfer.architecture.numbered import numbered_namings
from lib_transfer.architecture.unet import UNet, unet_namings

SD1_UNET = UNet(
    input_depths=((1, 1), (1, 1), (1, 1), (0, 0)),
    middle_depth=1,
    output_depths=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    multipliers=(1, 2, 4, 4),
    context=(768,),
    vector=(),
    linear_projection=False,
    output="diffusers",
    model="sd1-unet",
)

SD1_CLIP = clip_l("te1", *hf_key_layouts("cond_stage_model.transformer.", "text_encoder."))

SD1 = Architecture(
    id="sd1",
    title="Stable Diffusion 1.x",
    family="sd1",
    card_version="SD1",
    base_model_version="sd_v1",
    v2=False,
    modelspec_architecture="stable-diffusion-v1/lora",
    modelspec_implementation="diffusers",
    core=SD1_UNET,
    text_encoders=(SD1_CLIP,),
    also_loaded=(("ldm", "lora_unet_"), ("diffusers", "lora_unet_"), ("hf", "lora_te1_")),
    # A1111 does not know it.
    not_loaded=("conv_norm_out",),
    namings=(
        *unet_namings("diffusers"),
        *text_namings("te1", underscored=("lora_te_", "lora_te1_"), folder="text_encoder.", comfy="clip_l"),
        *dotted("te1", "hf", "base_model.model."),
        *dotted("te1", "hf bare", "base_model.model."),
        *numbered_namings(SD1_UNET, SD1_CLIP),
    ),
)
