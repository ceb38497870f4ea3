"""Checkpoints as pipelines of diffusers: its own networks and its own conversion of the same weights."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests import tiny
from tests.autoencoders import autoencoder as autoencoder_weights

WIDTH = 32
TOKENS = 49408
SD = {"norm_num_groups": 32, "sample_size": 8}
XL = {
    **SD,
    "block_out_channels": (32, 64, 128),
    "attention_head_dim": (1, 1, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
# As their publishers have them, but for the widths.
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**SD, "block_out_channels": (32, 64, 128, 128), "attention_head_dim": 8},
    "sd2": {
        **SD,
        "block_out_channels": (32, 64, 128, 128),
        "attention_head_dim": (1, 1, 2, 2),
        "use_linear_projection": True,
    },
    "sdxl": XL,
    "ssd-1b": XL
    | {
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "koala-700m": XL | {"mid_block_type": None, "layers_per_block": 1, "transformer_layers_per_block": [1, 2, 5]},
}
# Path in the single file, activation, and layers that the folders of diffusers have.
ENCODERS = {
    "sd1": (("cond_stage_model.transformer.text_model.", "quick_gelu", 12),),
    "sd2": (("cond_stage_model.model.", "gelu", 23),),
    "sdxl": (
        ("conditioner.embedders.0.transformer.text_model.", "quick_gelu", 12),
        ("conditioner.embedders.1.model.", "gelu", 32),
    ),
}
SCALES = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def weights(name: str) -> tiny.Weights:
    """A tiny checkpoint that knows all tokens, with an autoencoder; XL's sizes fill their part of the vector."""
    made = tiny.weights(name, width=WIDTH) | autoencoder_weights(WIDTH)
    for number, key in enumerate(key for key in list(made) if key.endswith("token_embedding.weight")):
        generator = torch.Generator().manual_seed(number)
        made[key] = 0.1 * torch.randn(TOKENS, made[key].shape[1], generator=generator)
    return with_whole_vector(made)


def with_whole_vector(given: tiny.Weights) -> tiny.Weights:
    """The same, where XL's sizes fill their part of the vector: six times a whole number."""
    label = f"{tiny.UNET}label_emb.0.0.weight"
    return given | ({label: given[label][:, : 128 + 6 * 24].contiguous()} if label in given else {})


def unet(name: str, given: tiny.Weights) -> nn.Module:
    """Diffusers' UNet."""
    import diffusers
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    context = next(w.shape[1] for key, w in given.items() if key.endswith("attn2.to_k.weight"))
    config = UNETS[name] | {"cross_attention_dim": context}
    if "addition_embed_type" in config:
        wide = given[f"{tiny.UNET}label_emb.0.0.weight"].shape[1]
        config |= {"addition_time_embed_dim": 24, "projection_class_embeddings_input_dim": wide}
    converted = convert_ldm_unet_checkpoint(
        {key: w for key, w in given.items() if key.startswith(tiny.UNET)},
        {"layers_per_block": 2, "class_embed_type": None, **config},
    )
    model = diffusers.UNet2DConditionModel(**config).eval()
    model.load_state_dict(converted)
    return model


def autoencoder(given: tiny.Weights, scale: float) -> nn.Module:
    """Diffusers' autoencoder."""
    import diffusers
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = {
        "block_out_channels": (32, 64, 128, 128),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "scaling_factor": scale,
    }
    of_it = {key: w for key, w in given.items() if key.startswith("first_stage_model.")}
    model = diffusers.AutoencoderKL(latent_channels=4, **config).eval()
    model.load_state_dict(convert_ldm_vae_checkpoint(of_it, config))
    return model


def text_encoder(given: tiny.Weights, prefix: str, act: str, layers: int) -> nn.Module:
    """Transformers' text encoder."""
    import transformers

    leaves = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    found: dict[str, Tensor] = {}
    for key, weight in given.items():
        if not key.startswith(prefix):
            continue
        rest = key.removeprefix(prefix)
        rest = rest.replace("token_embedding.weight", "embeddings.token_embedding.weight") if rest[0] == "t" else rest
        if rest == "positional_embedding":
            rest = "embeddings.position_embedding.weight"
        elif rest == "text_projection":
            found["text_projection.weight"] = weight.T
            continue
        elif "in_proj_" in rest:
            layer, _, end = rest.removeprefix("transformer.resblocks.").partition(".attn.in_proj_")
            parts = zip("qkv", weight.chunk(3), strict=True)
            found |= {f"encoder.layers.{layer}.self_attn.{part}_proj.{end}": w for part, w in parts}
            continue
        rest = rest.replace("transformer.resblocks", "encoder.layers").replace("attn.out_proj", "self_attn.out_proj")
        rest = rest.replace("self_self_", "self_").replace("ln_final", "final_layer_norm")
        for here, there in leaves.items():
            rest = rest.replace(f".{here}.", f".{there}.")
        found[rest] = weight
    width = found["encoder.layers.0.mlp.fc1.weight"].shape[1]
    config = transformers.CLIPTextConfig(
        vocab_size=TOKENS,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 64, 1),
        hidden_act=act,
        projection_dim=width,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    projects = layers == 32
    model = (transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel)(config).eval()
    level = "text_model." if hasattr(model, "text_model") else ""
    named = {key if key.startswith("text_projection") else level + key: w for key, w in found.items()}
    missing = model.load_state_dict(named, strict=False).missing_keys
    assert not [key for key in missing if "position_ids" not in key]
    if not level:
        # With transformers 5, the pipelines of diffusers 0.42 still look for this when Clip skip is given.
        object.__setattr__(model, "text_model", model)
    return model


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary and merges, from the file of open_clip."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    folder = Path((spec.submodule_search_locations or [""])[0])
    lines = gzip.decompress((folder / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    merges = [(line.split()[0], line.split()[1]) for line in lines[1 : 49152 - 256 - 2 + 1]]
    listed = [*open_clip().decoder.values()]
    listed[-2:] = ["<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(listed)}, merges


def open_clip() -> Any:
    """The tokenizer of open_clip, without the rest of the package, which needs more packages."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    file = Path((package.submodule_search_locations or [""])[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("tests_open_clip_tokenizer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def tokenizer(folder: Path, pad: str) -> Any:
    """Transformers' tokenizer, from files in ``folder``."""
    import transformers

    numbers, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]))
    made = transformers.CLIPTokenizer.from_pretrained(str(folder), pad_token=pad, local_files_only=True)
    made.model_max_length = 77
    return made


def pipeline(name: str, given: tiny.Weights, folder: Path) -> Any:
    """A pipeline of diffusers with the weights of a single file; ``folder`` is for the files of its tokenizers."""
    import diffusers

    encoders = [text_encoder(given, *encoder) for encoder in ENCODERS[name]]
    pads = {"sd1": ["<|endoftext|>"], "sd2": ["!"], "sdxl": ["<|endoftext|>", "!"]}[name]
    tokenizers = [tokenizer(folder, pad) for pad in pads]
    parts: dict[str, Any] = {
        "vae": autoencoder(given, SCALES[name]),
        "text_encoder": encoders[0],
        "tokenizer": tokenizers[0],
        "unet": unet(name, given),
        "scheduler": diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        ),
    }
    if name == "sdxl":
        parts |= {"text_encoder_2": encoders[1], "tokenizer_2": tokenizers[1]}
        return diffusers.StableDiffusionXLPipeline(**parts)
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def predicted(pipe: Any, x: Tensor, steps: Tensor, prompt: str, clip_skip: int | None) -> Tensor:
    """What a pipeline's UNet predicts for ``x`` at ``steps``; an empty prompt is one that nobody gave."""
    beside = {}
    with torch.no_grad():
        if "text_encoder_2" in pipe.components:
            told = pipe.encode_prompt(prompt, do_classifier_free_guidance=not prompt, clip_skip=clip_skip, device="cpu")
            context, pooled = (told[0], told[2]) if prompt else (told[1], told[3])
            side = 8 * x.shape[-1]
            ids = pipe._get_add_time_ids((side, side), (0, 0), (side, side), torch.float32, pooled.shape[1])
            beside = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        else:
            context = pipe.encode_prompt(prompt, "cpu", 1, False, clip_skip=clip_skip)[0]
        result: Tensor = pipe.unet(x, steps, context, **beside).sample
        return result
