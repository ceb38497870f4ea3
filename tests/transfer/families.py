"""The families of names that people have LoRAs in, for every transformer since Anima.

The names are written out by hand, as the trainers and the tools make them, each with the tensor of the single file that it
changes and the rows there. What the programs load is a ``lora_unet_`` (``lora_te_``) name for the whole tensor of its path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

QWEN = "text_encoders.qwen3_06b.transformer.model."
ALL = (0.0, 1.0)
THIRDS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
FIFTHS = ((0.0, 3 / 5), (3 / 5, 4 / 5), (4 / 5, 1.0))  # Lumina 2 has a third as many keys and values as queries


class Place(NamedTuple):
    """A place of block N in the original's words and in diffusers', and its rows of the original's weight."""

    native: str
    diffusers: str
    rows: tuple[float, float] = ALL


class Stretch(NamedTuple):
    """Blocks of one kind: how many, where both keep block N, and its places."""

    depth: int
    native: str
    diffusers: str
    places: tuple[Place, ...]


def _parts(native: str, rows: tuple[tuple[float, float], ...], *names: str) -> tuple[Place, ...]:
    return tuple(Place(native, name, each) for name, each in zip(names, rows, strict=True))


def _same(*paths: str) -> tuple[Place, ...]:
    return tuple(Place(path, path) for path in paths)


COSMOS = (
    Place("self_attn.q_proj", "attn1.to_q"),
    Place("self_attn.k_proj", "attn1.to_k"),
    Place("self_attn.v_proj", "attn1.to_v"),
    Place("self_attn.output_proj", "attn1.to_out.0"),
    Place("cross_attn.q_proj", "attn2.to_q"),
    Place("cross_attn.k_proj", "attn2.to_k"),
    Place("cross_attn.v_proj", "attn2.to_v"),
    Place("cross_attn.output_proj", "attn2.to_out.0"),
    Place("mlp.layer1", "ff.net.0.proj"),
    Place("mlp.layer2", "ff.net.2"),
    Place("adaln_modulation_self_attn.1", "norm1.linear_1"),
    Place("adaln_modulation_cross_attn.2", "norm2.linear_2"),
    Place("adaln_modulation_mlp.1", "norm3.linear_1"),
)
FLUX2_DOUBLE = (
    *_parts("img_attn.qkv", THIRDS, "attn.to_q", "attn.to_k", "attn.to_v"),
    *_parts("txt_attn.qkv", THIRDS, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    Place("img_attn.proj", "attn.to_out.0"),
    Place("txt_attn.proj", "attn.to_add_out"),
    Place("img_mlp.0", "ff.linear_in"),
    Place("img_mlp.2", "ff.linear_out"),
    Place("txt_mlp.0", "ff_context.linear_in"),
    Place("txt_mlp.2", "ff_context.linear_out"),
)
FLUX2_SINGLE = (Place("linear1", "attn.to_qkv_mlp_proj"), Place("linear2", "attn.to_out"))
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
ADDED = {"q": "add_q_proj", "k": "add_k_proj", "v": "add_v_proj", "o": "to_add_out"}
WAN = (
    *(Place(f"self_attn.{word}", f"attn1.{theirs}") for word, theirs in ATTENTION.items()),
    *(Place(f"cross_attn.{word}", f"attn2.{theirs}") for word, theirs in ATTENTION.items()),
    Place("ffn.0", "ffn.net.0.proj"),
    Place("ffn.2", "ffn.net.2"),
)
AURA_FORWARD = {"c_fc1": "linear_1", "c_fc2": "linear_2", "c_proj": "out_projection"}


def _flux2(double: int, single: int) -> tuple[Stretch, ...]:
    return (
        Stretch(double, "double_blocks", "transformer_blocks", FLUX2_DOUBLE),
        Stretch(single, "single_blocks", "single_transformer_blocks", FLUX2_SINGLE),
    )


BASES: Mapping[str, tuple[Stretch, ...]] = {
    "cosmos-predict2-2b": (Stretch(28, "blocks", "transformer_blocks", COSMOS),),
    "anima": (Stretch(28, "blocks", "transformer_blocks", COSMOS),),
    "z-image": (
        Stretch(
            30,
            "layers",
            "layers",
            (
                *_parts("attention.qkv", THIRDS, *(f"attention.to_{word}" for word in "qkv")),
                Place("attention.out", "attention.to_out.0"),
                *_same("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0"),
            ),
        ),
    ),
    "lumina-2": (
        Stretch(
            26,
            "layers",
            "layers",
            (
                *_parts("attention.qkv", FIFTHS, *(f"attn.to_{word}" for word in "qkv")),
                Place("attention.out", "attn.to_out.0"),
                *(Place(f"feed_forward.w{number}", f"feed_forward.linear_{number}") for number in (1, 2, 3)),
                Place("adaLN_modulation.1", "norm1.linear"),
            ),
        ),
    ),
    "flux2-klein-4b": _flux2(5, 20),
    "flux2-klein-9b": _flux2(8, 24),
    "flux2-dev": _flux2(8, 48),
    "qwen-image": (
        Stretch(
            60,
            "transformer_blocks",
            "transformer_blocks",
            _same(
                *(f"attn.{name}" for name in (*ATTENTION.values(), *ADDED.values())),
                *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
                *("img_mod.1", "txt_mod.1"),
            ),
        ),
    ),
    "wan-1.3b": (Stretch(30, "blocks", "blocks", WAN),),
    "wan-5b": (Stretch(30, "blocks", "blocks", WAN),),
    "wan-14b": (Stretch(40, "blocks", "blocks", WAN),),
    "wan-i2v-14b": (
        Stretch(
            40,
            "blocks",
            "blocks",
            (*WAN, Place("cross_attn.k_img", "attn2.add_k_proj"), Place("cross_attn.v_img", "attn2.add_v_proj")),
        ),
    ),
    "ernie-image": (
        Stretch(
            36,
            "layers",
            "layers",
            _same(
                *(f"self_attention.{name}" for name in ATTENTION.values()),
                *("mlp.gate_proj", "mlp.up_proj", "mlp.linear_fc2"),
            ),
        ),
    ),
    "krea-2": (
        Stretch(
            28,
            "blocks",
            "transformer_blocks",
            (
                *(Place(f"attn.w{word}", f"attn.{theirs}") for word, theirs in ATTENTION.items()),
                Place("attn.gate", "attn.to_gate"),
                *(Place(f"mlp.{word}", f"ff.{word}") for word in ("gate", "up", "down")),
            ),
        ),
    ),
    "auraflow": (
        Stretch(
            4,
            "double_layers",
            "joint_transformer_blocks",
            (
                # The image's weights are the second ones.
                *(Place(f"attn.w2{word}", f"attn.{theirs}") for word, theirs in ATTENTION.items()),
                *(Place(f"attn.w1{word}", f"attn.{theirs}") for word, theirs in ADDED.items()),
                *(Place(f"mlpX.{word}", f"ff.{theirs}") for word, theirs in AURA_FORWARD.items()),
                *(Place(f"mlpC.{word}", f"ff_context.{theirs}") for word, theirs in AURA_FORWARD.items()),
                Place("modX.1", "norm1.linear"),
                Place("modC.1", "norm1_context.linear"),
            ),
        ),
        Stretch(
            32,
            "single_layers",
            "single_transformer_blocks",
            (
                *(Place(f"attn.w1{word}", f"attn.{theirs}") for word, theirs in ATTENTION.items()),
                *(Place(f"mlp.{word}", f"ff.{theirs}") for word, theirs in AURA_FORWARD.items()),
                Place("modCX.1", "norm1.linear"),
            ),
        ),
    ),
}

# What stands before a path, what for its dots, and whose path it is. One row per family of names that people have files of.
FAMILIES = {
    "kohya": ("lora_unet_", "_", "native"),
    "kohya with a second underscore": ("lora_unet__", "_", "native"),
    "kohya behind net": ("lora_unet_net_", "_", "native"),
    "kohya of a whole checkpoint": ("lora_unet_model_diffusion_model_", "_", "native"),
    "LyCORIS": ("lycoris_", "_", "native"),
    "diffusion-pipe, ai-toolkit": ("diffusion_model.", ".", "native"),
    "whole checkpoint": ("model.diffusion_model.", ".", "native"),
    "OneTrainer, original": ("net.", ".", "native"),
    "DiffSynth-Studio": ("", ".", "native"),
    "transformer and the original's path": ("transformer.", ".", "native"),
    "lora_transformer and the original's path": ("lora_transformer_", "_", "native"),
    "diffusers": ("transformer.", ".", "diffusers"),
    "diffusers, bare": ("", ".", "diffusers"),
    "PEFT": ("base_model.model.", ".", "diffusers"),
    "ai-toolkit, diffusers' path": ("diffusion_model.", ".", "diffusers"),
    "musubi-tuner, OneTrainer": ("lora_unet_", "_", "diffusers"),
    "OneTrainer until 2026": ("lora_transformer_", "_", "diffusers"),
    "SimpleTuner, LyCORIS": ("lycoris_", "_", "diffusers"),
    "SimpleTuner, comfyui": ("diffusion_model.transformer.", ".", "diffusers"),
}

Change = tuple[str, tuple[float, float]]
"""The path of a tensor of the single file, and the part of its rows."""

# Beside the blocks: names of the ways in and out, of Anima's adapter and its language model, and of single trainers.
FLUX2_OUTSIDE: Mapping[str, Change] = {
    "transformer.double_stream_modulation_img.linear": ("double_stream_modulation_img.lin", ALL),
    "diffusion_model.single_stream_modulation.lin": ("single_stream_modulation.lin", ALL),
    "transformer.time_guidance_embed.timestep_embedder.linear_1": ("time_in.in_layer", ALL),
    "lora_unet_img_in": ("img_in", ALL),
    "transformer.context_embedder": ("txt_in", ALL),
    "diffusion_model.final_layer.linear": ("final_layer.linear", ALL),
}
WAN_OUTSIDE: Mapping[str, Change] = {
    "diffusion_model.text_embedding.2": ("text_embedding.2", ALL),
    "transformer.condition_embedder.time_embedder.linear_1": ("time_embedding.0", ALL),
    "transformer.condition_embedder.time_proj": ("time_projection.1", ALL),
    "lora_unet_head_head": ("head.head", ALL),
}
OUTSIDE: Mapping[str, Mapping[str, Change]] = {
    "cosmos-predict2-2b": {
        "lora_unet_x_embedder_proj_1": ("x_embedder.proj.1", ALL),
        "transformer.time_embed.t_embedder.linear_2": ("t_embedder.1.linear_2", ALL),
        "transformer.norm_out.linear_2": ("final_layer.adaln_modulation.2", ALL),
        "proj_out": ("final_layer.linear", ALL),
    },
    "anima": {
        # kohya's conversion to ComfyUI's names puts dots where they do not belong.
        "diffusion_model.blocks.27.adaln_modulation.self_attn.2": ("blocks.27.adaln_modulation_self_attn.2", ALL),
        "diffusion_model.blocks.27.adaln_modulation.cross_attn.1": ("blocks.27.adaln_modulation_cross_attn.1", ALL),
        "diffusion_model.t.embedder.1.linear_1": ("t_embedder.1.linear_1", ALL),
        "lora_unet_llm_adapter_blocks_0_self_attn_q_proj": ("llm_adapter.blocks.0.self_attn.q_proj", ALL),
        "diffusion_model.llm_adapter.blocks.1.cross_attn.o_proj": ("llm_adapter.blocks.1.cross_attn.o_proj", ALL),
        "net.llm_adapter.blocks.1.mlp.0": ("llm_adapter.blocks.1.mlp.0", ALL),
        "llm_adapter.blocks.1.mlp.2": ("llm_adapter.blocks.1.mlp.2", ALL),
        "transformer.llm_adapter.blocks.2.mlp.2": ("llm_adapter.blocks.2.mlp.2", ALL),
        "text_conditioner.blocks.5.self_attn.v_proj": ("llm_adapter.blocks.5.self_attn.v_proj", ALL),
        "text_conditioner.out_proj": ("llm_adapter.out_proj", ALL),
        "lycoris_llm_adapter_blocks_3_mlp_0": ("llm_adapter.blocks.3.mlp.0", ALL),
        "lora_te_layers_0_self_attn_q_proj": (f"{QWEN}layers.0.self_attn.q_proj", ALL),
        "text_encoders.qwen3_06b.transformer.model.layers.1.mlp.gate_proj": (f"{QWEN}layers.1.mlp.gate_proj", ALL),
        "text_encoders.qwen3_06b.model.layers.2.self_attn.o_proj": (f"{QWEN}layers.2.self_attn.o_proj", ALL),
        "text_encoders.transformer.model.layers.3.mlp.down_proj": (f"{QWEN}layers.3.mlp.down_proj", ALL),
        "text_encoder.layers.4.self_attn.k_proj": (f"{QWEN}layers.4.self_attn.k_proj", ALL),
        "text_encoder.model.layers.5.self_attn.v_proj": (f"{QWEN}layers.5.self_attn.v_proj", ALL),
    },
    "z-image": {
        "diffusion_model.noise_refiner.0.attention.to_k": ("noise_refiner.0.attention.qkv", THIRDS[1]),
        "lora_unet_context_refiner_1_attention_qkv": ("context_refiner.1.attention.qkv", ALL),
        "transformer.all_x_embedder.2-1": ("x_embedder", ALL),
        "transformer.all_final_layer.2-1.adaLN_modulation.1": ("final_layer.adaLN_modulation.1", ALL),
        "diffusion_model.cap_embedder.1": ("cap_embedder.1", ALL),
        "t_embedder.mlp.0": ("t_embedder.mlp.0", ALL),
        "layers.29.attention.to.k": ("layers.29.attention.qkv", THIRDS[1]),
    },
    "lumina-2": {
        "transformer.noise_refiner.1.attn.to_v": ("noise_refiner.1.attention.qkv", FIFTHS[2]),
        "lora_unet_context_refiner_0_attention_qkv": ("context_refiner.0.attention.qkv", ALL),
        "transformer.time_caption_embed.caption_embedder.1": ("cap_embedder.1", ALL),
        "transformer.time_caption_embed.timestep_embedder.linear_2": ("t_embedder.mlp.2", ALL),
        "lora_unet_final_layer_adaLN_modulation_1": ("final_layer.adaLN_modulation.1", ALL),
        "transformer.norm_out.linear_2": ("final_layer.linear", ALL),
    },
    "flux2-klein-4b": FLUX2_OUTSIDE,
    "flux2-klein-9b": FLUX2_OUTSIDE,
    "flux2-dev": {
        **FLUX2_OUTSIDE,
        "transformer.time_guidance_embed.guidance_embedder.linear_2": ("guidance_in.out_layer", ALL),
    },
    "qwen-image": {
        "transformer.time_text_embed.timestep_embedder.linear_2": ("time_text_embed.timestep_embedder.linear_2", ALL),
        "lora_unet_txt_in": ("txt_in", ALL),
        "proj_out": ("proj_out", ALL),
    },
    "wan-1.3b": WAN_OUTSIDE,
    "wan-5b": WAN_OUTSIDE,
    "wan-14b": WAN_OUTSIDE,
    "wan-i2v-14b": {
        "transformer.condition_embedder.image_embedder.ff.net.0.proj": ("img_emb.proj.1", ALL),
        "diffusion_model.img_emb.proj.3": ("img_emb.proj.3", ALL),
    },
    "ernie-image": {
        "diffusion_model.adaLN_modulation.1": ("adaLN_modulation.1", ALL),
        "lora_unet_time_embedding_linear_2": ("time_embedding.linear_2", ALL),
        "transformer.final_linear": ("final_linear", ALL),
    },
    "krea-2": {
        "lora_unet_txtfusion_layerwise_blocks_0_attn_wq": ("txtfusion.layerwise_blocks.0.attn.wq", ALL),
        "transformer.text_fusion.refiner_blocks.1.ff.down": ("txtfusion.refiner_blocks.1.mlp.down", ALL),
        "transformer.transformer_blocks.27.attn.to_out": ("blocks.27.attn.wo", ALL),
        "base_model.model.txtmlp.1": ("txtmlp.1", ALL),
        "transformer.text_fusion.projector": ("txtfusion.projector", ALL),
        "lora_unet_tproj_1": ("tproj.1", ALL),
        "lora_unet_last_linear": ("last.linear", ALL),
    },
    "auraflow": {
        "transformer.context_embedder": ("cond_seq_linear", ALL),
        "lora_unet_t_embedder_mlp_2": ("t_embedder.mlp.2", ALL),
        "transformer.proj_out": ("final_linear", ALL),
    },
}


def named(base: str, family: str, number: int, of: int = 1, turn: int = 0) -> Iterator[tuple[str, Change]]:
    """The names of block ``number`` of each stretch in a family, of every ``of``-th weight, and what each changes."""
    prefix, separator, whose = FAMILIES[family]
    for stretch in BASES[base]:
        weights = list(dict.fromkeys(place.native for place in stretch.places))
        block = number % stretch.depth
        for place in stretch.places:
            if weights.index(place.native) % of != turn % of:
                continue
            if whose == "native":
                yield (
                    prefix + f"{stretch.native}.{block}.{place.native}".replace(".", separator),
                    (f"{stretch.native}.{block}.{place.native}", ALL),
                )
            else:
                yield (
                    prefix + f"{stretch.diffusers}.{block}.{place.diffusers}".replace(".", separator),
                    (f"{stretch.native}.{block}.{place.native}", place.rows),
                )


def all_families(base: str) -> dict[str, Change]:
    """Every family in a block of its own; where there are fewer blocks, in weights of its own of a block."""
    depth = min(stretch.depth for stretch in BASES[base])
    of = -(-len(FAMILIES) // depth)
    inside: dict[str, Change] = {}
    for number, family in enumerate(FAMILIES):
        inside |= dict(named(base, family, number, of, number // depth))
    return {**inside, **OUTSIDE[base]}
