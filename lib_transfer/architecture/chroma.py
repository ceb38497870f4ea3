"""Chroma: Flux.1 schnell whose modulations a small network computes, and whose only text encoder is T5.

Keys: ``lodestones/Chroma``; names of diffusers: its ``ChromaTransformer2DModel``.
"""

from __future__ import annotations

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.flux import Flux
from lib_transfer.architecture.names import text_namings
from lib_transfer.architecture.t5 import t5_xxl
from lib_transfer.architecture.transformer import GENERIC, NAMINGS

CHROMA = Architecture(
    id="chroma",
    title="Chroma",
    family="flux-dev",
    card_version="Unknown",
    base_model_version="chroma",
    v2=False,
    modelspec_architecture="chroma/lora",
    modelspec_implementation="https://huggingface.co/lodestones/Chroma",
    core=Flux("chroma-transformer", approximator=5120),
    text_encoders=(t5_xxl("text_encoders.t5xxl.transformer.", "text_encoder."),),
    namings=(
        *NAMINGS,
        # Of the numbers, kohya has 3 and OneTrainer none; Forge loads any.
        *text_namings(
            "te3",
            underscored=("lora_te3_", "lora_te_", "lora_te1_", "lora_te2_"),
            folder="text_encoder.",
            comfy="t5xxl",
            omi="t5",
        ),
    ),
    hosts="Forge",
    also_loaded=GENERIC,
)
