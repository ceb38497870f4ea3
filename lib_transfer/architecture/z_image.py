"""Z-Image: base, Turbo and everything trained from them. Its structure is that of Lumina 2, wider.

Keys: ComfyUI's single files of ``Tongyi-MAI/Z-Image-Turbo``; names and rows of diffusers: its ``ZImageTransformer2DModel``,
which the model's own files have too.
"""

from __future__ import annotations

from dataclasses import replace

from lib_transfer.architecture.lumina import LUMINA_2, NextDiT, Words
from lib_transfer.architecture.names import dotted
from lib_transfer.architecture.transformer import GENERIC, PART, WRAPPED_NAMINGS

WORDS = Words(
    attention="attention",
    feed_forward=("w1", "w2", "w3"),
    modulation="adaLN_modulation.0",
    norms=("attention_norm1", "attention_norm2"),
    plain=("attention_norm1", "attention_norm2"),
    # Of the patch sizes that the class allows, the model has one: 2 x 2 pixels of 1 frame.
    x="all_x_embedder.2-1",
    time=("t_embedder.mlp.0", "t_embedder.mlp.2"),
    text="cap_embedder",
    final=("all_final_layer.2-1.adaLN_modulation.1", "all_final_layer.2-1.linear"),
)

Z_IMAGE = replace(
    LUMINA_2,
    id="z-image",
    title="Z-Image",
    family="z-image",
    base_model_version="z_image",
    modelspec_architecture="Z-Image/lora",
    modelspec_implementation="https://github.com/Tongyi-MAI/Z-Image",
    core=NextDiT(
        "z-image-transformer",
        words=WORDS,
        depth=30,
        width=3840,
        parts=(1, 1, 1),
        inner=8,
        head=128,
        text=2560,
        time=(1024, 256),
        modulation="adaLN_modulation.0",
    ),
    # Qwen3 4B, on which nobody trains LoRAs.
    text_encoders=(),
    also_loaded=(*GENERIC, *(("diffusers", it) for it in ("diffusion_model.", "transformer.", "", "lycoris_"))),
    namings=(*WRAPPED_NAMINGS, *dotted(PART, "dotted", "diffusion_model.", "transformer.", "")),
)
