"""The kinds of files that people have, told by the names of the tensors: one table, whatever a file was opened as.

Names of adapters of images: :mod:`lib_transfer.formats.tensor_names`. Of the other kinds: the files of the ControlNet,
T2I-Adapter, IP-Adapter, AnimateDiff, LayerDiffuse, PhotoMaker and PuLID repositories, diffusers, transformers, PEFT,
llama.cpp, the WebUI's hypernetworks and embeddings, Real-ESRGAN.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""

NEITHER = "neither a LoRA nor a checkpoint of an image model"
ONLY_THESE = "Only LoRAs and checkpoints of image models can be used here."
BESIDE = "Where a checkpoint lacks its text encoder, name the checkpoint first and then this file, with the same option again."


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        title: what it is, with an article.
        pattern: is found in the :func:`outline` of every file of this kind, and of no other that comes later in the table.
        role: ``adapter`` of an image model, ``checkpoint`` with a diffusion model, or ``other``.
        hint: what can be done with it here.
        every: whether the pattern has to match every line of the outline.
        part: whether checkpoints hold such a thing beside their diffusion model.
    """

    title: str
    pattern: re.Pattern[str]
    role: Literal["adapter", "checkpoint", "other"] = "other"
    hint: str = ONLY_THESE
    every: bool = False
    part: bool = False

    def fits(self, lines: str) -> bool:
        """Whether a file of this :func:`outline` is of this kind."""
        if self.every:
            return bool(lines) and all(self.pattern.match(line) for line in lines.split("\n"))
        return self.pattern.search(lines) is not None


def _kind(title: str, *patterns: str, part: bool = False) -> Kind:
    return Kind(title, _compiled(patterns), part=part)


def _compiled(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.MULTILINE)


# What an adapter has, and no model: factors and differences, or names that only adapters have.
_FACTORS = (
    r"[._](?:lora_(?:up|down|mid|[ABE]|embedding_[AB]|magnitude_vector)|lora_linear_layer|(?:hada|lokr|oft|boft|vera|dyn)_)",
    r"[._]lora\d?\.(?:up|down)\.",
    r"\.(?:dora_scale|diff|diff_b|w_norm|b_norm|on_input|set_weight) ",
    r"\.(?:[ab][12]|bm)\.weight ",
    r"^(?:lora_(?:unet|te\d?|transformer|prior_\w+?)|lycoris|oft_unet)_",
    r"^bundle_emb\.",
    r"^(?:unet|text_encoder\w*):0:(?:up|down) ",
)
_LANGUAGE_MODEL = (
    r"^(?:base_model\.model\.)?(?:(?:language_model\.|model\.)?model\.(?:decoder\.|encoder\.|language_model\.)?layers"
    r"|transformer\.h|gpt_neox\.layers|(?:bert|roberta|deberta|electra|distilbert)\.(?:encoder|transformer)\.layer)\.0\."
)
_ENCODERS = r"^(?:cond_stage_model|conditioner\.embedders\.0)\."
_INSIDE = r"^(?:net\.|model\.|unet\.|transformer\.)?"
"""What may stand before the names of a diffusion model that is alone in its file."""

# The first that fits is meant, so what may hold factors too comes before the adapters, and what they are made for after.
KINDS: tuple[Kind, ...] = (
    _kind("a LayerDiffuse model (transparency)", r"::(?:lora|diff)::0 ", r"^latent_conv_in\."),
    _kind("a ControlNet-LLLite", r"^lllite_"),
    _kind("a Control-LoRA (a ControlNet)", r"^lora_control(?:net)? "),
    _kind(
        "a ControlNet",
        r"^(?:control_model|controlnet)\.",
        r"^(?:\w+\.)?(?:input_hint_block|zero_convs)\.",
        r"^controlnet_",
        r"^control_(?:layers|noise_refiner|all_x_embedder|img_in|transformer_blocks|blocks)\.",
    ),
    _kind("a PhotoMaker model", r"^id_encoder\."),
    _kind("a PuLID model", r"^(?:pulid_ca|id_adapter|id_adapter_attn_layers)\."),
    _kind("an IP-Adapter", r"^(?:image_proj|ip_adapter)\w*\.", r"\.ip_adapter_\w+\.", r"\.to_[kv]_ip\."),
    _kind("a T2I-Adapter", r"^adapter\.(?:body|conv_in)\.", r"^body\.0\.(?:block|in_conv|resnets)"),
    _kind("a Flux Redux model", r"^redux_(?:up|down)\."),
    _kind("an adapter of a language model", _LANGUAGE_MODEL + r".*(?:lora_|hada_|lokr_|ia3_|oft_|vera_)"),
    _kind("a motion LoRA of AnimateDiff", r"motion_modules\..*(?:_lora|\.lora|lora_[AB])"),
    _kind("a motion module of AnimateDiff", r"motion_modules\."),
    Kind("a LoRA", _compiled(_FACTORS), "adapter"),
    Kind(
        "a textual-inversion embedding",
        _compiled([r"(?:emb_params|clip_[lgh](?:_out)?|t5\w*|string_to_(?:param|token)\..*|<[^>]+>) [\dx]*\Z"]),
        every=True,
    ),
    _kind("a hypernetwork", r"^0\.0\.linear\."),
    _kind("a vision model", r"^(?:cls_token|mask_token) "),
    Kind("a full checkpoint", _compiled([r"^(?:model\.)?diffusion_model\."]), "checkpoint"),
    Kind(
        "a diffusion model",
        _compiled(
            [
                _INSIDE + r"(?:(?:input|output|down|up|double|single|joint)_blocks|middle_block|mid_block)\.",
                _INSIDE + r"(?:\w*transformer_blocks|blocks\.block0\.blocks|(?:double|single)_layers"
                r"|(?:double|single)_stream_(?:blocks|layers|modulation\w*)|(?:noise|context)_refiner|nerf_blocks|llm_adapter"
                r"|txtfusion|text_fusion)\.",
                _INSIDE + r"blocks\.0\.(?:attn\d?|attn[xy]|self_attn|cross_attn|norm\d|modulation|scale_shift_table)\b",
                _INSIDE + r"layers\.0\.(?:attention|self_attention|attn|adaLN_modulation|feed_forward)\.",
                _INSIDE
                + r"(?:cap_embedder|t_block|txt_in|img_in|adaln_single|patch_embedding|time_embed|time_embedding"
                r"|time_text_embed|condition_embedder|caption_projection|clip(?:_txt)?_mapper|head\.modulation)\b",
            ]
        ),
        "checkpoint",
    ),
    _kind(
        "a VAE",
        r"^(?:first_stage_model\.|vae\.)?(?:en|de)coder\.(?:mid|up|down|middle|conv_in|conv_out|conv0|stages|layers\.0\.conv)"
        r"\w*\.",
        r"^taesd_(?:en|de)coder\.",
        part=True,
    ),
    Kind("a small VAE (TAESD)", _compiled([r"0\.(?:conv\.0\.|skip\.)?(?:weight|bias) [\dx]*\Z"]), every=True),
    _kind("a CLIP vision model", r"^(?:vision_model|visual|image_encoder)\."),
    Kind(
        "a text encoder",
        _compiled(
            [r"(?:^|\.)(?:encoder\.(?:layers|block)|transformer\.resblocks|enc\.blk)\.0\.", r"^text_model\.", _ENCODERS]
        ),
        hint=BESIDE,
        part=True,
    ),
    Kind(
        "a language model",
        _compiled(
            [
                _LANGUAGE_MODEL,
                r"^(?:layers|h)\.0\.(?:self_attn|input_layernorm|post_attention|ln_1|attn\.c_attn)",
                r"^(?:blk\.0\.|token_embd\.|lm_head\.|(?:model\.)?embed_tokens\.|encoder\.layer\.0\.)",
            ]
        ),
        # Newer models have one as their text encoder.
        hint=BESIDE,
    ),
    _kind("an upscaler", r"^(?:params(?:_ema)?\.)?(?:conv_first\.|model\.0\.(?:weight|bias|sub\.)|body\.0\.rdb)"),
)


SEVERAL = Kind("a file of several models", re.compile(r"(?!)"), "checkpoint")


def kind_of(tensors: Shapes) -> Kind | None:
    """The kind of a file with these tensors; None where it is not known."""
    lines = outline(tensors)
    kind = next((kind for kind in KINDS if kind.fits(lines)), None)
    # A part of a model is not alone where a diffusion model stands beside it behind a name that nobody expects.
    return SEVERAL if kind is not None and kind.part and prefixes(tensors) else kind


def outline(tensors: Shapes) -> str:
    """A line for every tensor: its name, in which a word that is a number is written 0, and its shape such as ``8x4``.

    Blocks of one structure become the same few lines, so that thousands of tensors are looked through at once.
    """
    lines = "\n".join([f"{key} {'x'.join(map(str, shape))}" for key, shape in tensors.items()])
    return "\n".join(dict.fromkeys(_NUMBER.sub("0", lines).split("\n")))


_NUMBER = re.compile(r"(?<![^._:\n])\d+(?=[._: ])")

# Where the names of a diffusion model begin in a name; nothing else has these words at the beginning of a level.
_CORE = re.compile(
    r"(?:^|\.)(?P<word>(?:input|output|double|single|joint)_blocks\.\d|middle_block\.\d|mid_block\.(?:resnets|attentions)"
    r"|(?:down|up)_blocks\.\d+\.(?:resnets|attentions|downsamplers|upsamplers)|(?:single_)?transformer_blocks\.\d)"
)


def prefixes(names: Iterable[str]) -> dict[str, str]:
    """What stands before the names of diffusion models in these, each with the word that it was found by.

    An empty one is among them where the names stand alone. The blocks of a VAE have such names too, and do not count.
    """
    found: dict[str, str] = {}
    for name in names:
        match = _CORE.search(name) if "block" in name else None
        if match is not None and not name[: match.start("word")].endswith(("encoder.", "decoder.")):
            found.setdefault(name[: match.start("word")], match["word"].partition(".")[0])
    return found
