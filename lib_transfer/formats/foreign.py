"""Files that are opened as adapters by mistake, recognised by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A kind of file that is not an adapter.

    Attributes:
        title: what it is, with an article.
        pattern: matches the beginning of a tensor's name that only this kind has.
        beside_factors: whether it is this kind even when factors of an adapter are in it.
    """

    title: str
    pattern: re.Pattern[str]
    beside_factors: bool = False


FOREIGN: tuple[Foreign, ...] = (
    Foreign("a ControlNet-LLLite", re.compile(r"lllite_"), True),
    Foreign("a Control-LoRA (a ControlNet)", re.compile(r"lora_controlnet\Z"), True),
    Foreign(
        "a ControlNet",
        re.compile(r"(?:control_model\.)?(?:input_hint_block|zero_convs)\.|control_model\.|controlnet_"),
        True,
    ),
    Foreign("an IP-Adapter", re.compile(r"ip_adapter\.|image_proj\."), True),
    Foreign("a T2I-Adapter", re.compile(r"adapter\.body\.\d|body\.\d+\.(?:block|in_conv)"), True),
    Foreign(
        "an adapter of a language model",
        re.compile(r"(?:base_model\.model\.)?(?:model\.layers|transformer\.h)\.\d+\.(?:self_attn|mlp|attn)\..*lora_"),
        True,
    ),
    Foreign("a hypernetwork", re.compile(r"\d+\.[01]\.linear\.")),
    Foreign("a full checkpoint", re.compile(r"model\.diffusion_model\.|cond_stage_model\.|conditioner\.embedders\.")),
    Foreign(
        "a VAE", re.compile(r"(?:first_stage_model\.)?(?:encoder|decoder)\.(?:conv_in|down|up|mid)(?:_block)?[._]")
    ),
    Foreign(
        "a full diffusion model",
        re.compile(
            r"(?:diffusion_model\.|unet\.|transformer\.)?"
            r"(?:input_blocks\.|output_blocks\.|double_blocks\.|single_blocks\.|joint_blocks\."
            r"|down_blocks\.|up_blocks\.|transformer_blocks\.|single_transformer_blocks\.)\d"
        ),
    ),
    Foreign("a text encoder", re.compile(r"(?:transformer\.)?(?:text_model\.)?(?:encoder\.|embeddings\.|resblocks\.)")),
    Foreign("a language model", re.compile(r"(?:model\.)?(?:layers|embed_tokens|h)\.|lm_head\.")),
    Foreign("an upscaler", re.compile(r"conv_first\.|model\.0\.weight\Z")),
)

_EMBEDDING = re.compile(r"emb_params\Z|clip_[lgh](?:_out)?\Z|t5\w*\Z|string_to_param\.")
_FACTORS = re.compile(
    r"\.(?:lora_|lora\.|lokr_|hada_|oft_|dora_scale|diff(?:_b)?\Z|w_norm\Z|b_norm\Z|on_input\Z|[ab][12]\.weight\Z"
    r"|set_weight\Z)|_lora\d?\.(?:up|down)\."
)


def what_it_is(keys: Collection[str]) -> str | None:
    """What a file with these tensor names is, if it is known not to be an adapter; None otherwise."""
    if keys and all(_EMBEDDING.match(key) for key in keys):
        return "a textual-inversion embedding"
    has_factors = any(_FACTORS.search(key) for key in keys)
    for kind in FOREIGN:
        if (kind.beside_factors or not has_factors) and any(kind.pattern.match(key) for key in keys):
            return kind.title
    return None
