"""Stable Diffusion 2.x: 2.0, 2.1, base and v-prediction, inpainting, depth, and everything trained from them."""

from __future__ import annotations

from dataclasses import replace

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.clip import clip_h, hf_key_layouts
from lib_transfer.architecture.layout import KeyLayout
from lib_transfer.architecture.names import text_namings
from lib_transfer.architecture.numbered import numbered_namings
from lib_transfer.architecture.sd1 import SD1_UNET
from lib_transfer.architecture.unet import unet_namings

SD2_UNET = replace(SD1_UNET, context=(1024,), linear_projection=True, model="sd2-unet")

SD2_CLIP = clip_h(
    "te1",
    KeyLayout("cond_stage_model.model.", "openclip"),
    KeyLayout("conditioner.embedders.0.model.", "openclip"),
    *hf_key_layouts("text_encoder."),
)

SD2 = Architecture(
    id="sd2",
    title="Stable Diffusion 2.x",
    family="sd2",
    card_version="SD2",
    base_model_version="sd_v2",
    v2=True,
    modelspec_architecture="stable-diffusion-v2-768-v/lora",
    modelspec_implementation="diffusers",
    core=SD2_UNET,
    text_encoders=(SD2_CLIP,),
    also_loaded=(("ldm", "lora_unet_"), ("diffusers", "lora_unet_"), ("hf", "lora_te1_")),
    # A1111 does not know it.
    not_loaded=("conv_norm_out",),
    namings=(
        *unet_namings("diffusers"),
        *text_namings(
            "te1", underscored=("lora_te_", "lora_te1_"), folder="text_encoder.", comfy="clip_h", omi="clip_l"
        ),
        *numbered_namings(SD2_UNET, SD2_CLIP),
    ),
    # It reads the states before the last layer (and normalises them); Forge does not even build that layer.
    idle=frozenset({("te1", "layer 23"), ("te1", "projection")}),
)
