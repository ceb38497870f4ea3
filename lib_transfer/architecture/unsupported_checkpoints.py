"""Diffusion models that are recognised and not supported, by the keys of their checkpoints.

Keys: the models' own repositories and diffusers, as ComfyUI and Forge Neo tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lib_transfer.architecture.architecture import Tensors


@dataclass(frozen=True)
class Unsupported:
    """A family of checkpoints that is not supported.

    Attributes:
        what: what a checkpoint of it is, with an article.
        patterns: regular expressions that are all found among the lines ``key shape``, such as ``img_in.weight 3072x64``,
            of every checkpoint of it.
        alike: whether its modules are those of a supported model, so that nothing else speaks against it.
    """

    what: str
    patterns: tuple[str, ...]
    alike: bool = False

    def fits(self, lines: str) -> bool:
        """Whether tensors, as lines ``key shape``, look like it."""
        return all(re.search(pattern, lines, re.MULTILINE) for pattern in self.patterns)


def _unsupported(what: str, *patterns: str, alike: bool = False) -> Unsupported:
    return Unsupported(what, patterns, alike)


# Before a key of the diffusion model: nothing, or any levels.
_AT = r"^(?:\S+\.)?"
_UNET = r"^(?:(?:model\.)?diffusion_model\.|unet\.)?"
_VECTOR = _UNET + r"(?:label_emb\.0\.0|class_embedding\.linear_1)\.weight \d+x\d+$"

# From the most telling to the vaguest: the first that fits is named.
UNSUPPORTED = (
    _unsupported("a Chroma Radiance checkpoint", _AT + r"(?:nerf_blocks|img_in_patch)\."),
    _unsupported("a HunyuanVideo or HunyuanImage checkpoint", _AT + r"(?:txt_in\.individual_token_refiner|byt5_in)\."),
    _unsupported("a HunyuanVideo checkpoint", _AT + r"context_embedder\.token_refiner\."),
    _unsupported("an Ovis-Image checkpoint", _AT + r"double_blocks\.\d+\.img_mlp\.gate_proj\.", _AT + r"txt_norm\."),
    _unsupported("a LongCat-Image checkpoint", _AT + r"double_blocks\.", _AT + r"txt_in\.weight \d+x3584$"),
    _unsupported("a HiDream checkpoint", _AT + r"caption_projection\.0\.linear\."),
    _unsupported("a Kandinsky 5 checkpoint", _AT + r"visual_transformer_blocks\."),
    _unsupported("a Kandinsky checkpoint", _AT + r"encoder_hid_proj\.(?:image_embeds|text_proj|image_proj)"),
    _unsupported("a DeepFloyd IF checkpoint", _AT + r"add_embedding\.pool\."),
    _unsupported(
        "a Kolors checkpoint",
        _AT + r"encoder_hid_proj\.weight ",
        _AT + r"(?:add_embedding\.linear_1|label_emb\.0\.0)\.",
    ),
    _unsupported("a Hunyuan-DiT checkpoint", _AT + r"(?:mlp_t5|time_extra_emb)\."),
    _unsupported("a PixArt checkpoint", _AT + r"t_block\.1\.weight "),
    _unsupported("a Sana checkpoint", _AT + r"(?:attention_y_norm|caption_norm)\.weight ", _AT + r"\S*invert"),
    _unsupported(
        "a PixArt checkpoint", _AT + r"adaln_single\.emb\.timestep_embedder\.", _AT + r"pos_embed\.proj\.weight "
    ),
    _unsupported("an OmniGen2 checkpoint", _AT + r"(?:ref_image_patch_embedder|ref_image_refiner)\."),
    _unsupported("a Z-Image Omni checkpoint", _AT + r"siglip_embedder\."),
    _unsupported("a Zeta-Chroma checkpoint", _AT + r"dec_net\."),
    _unsupported("a Ming-Image checkpoint", _AT + r"__ming_image__ ", alike=True),
    _unsupported("a NewBie checkpoint", _AT + r"clip_text_pooled_proj\."),
    _unsupported(
        "a Qwen-Image 2.1 checkpoint", _AT + r"txt_in\.text_norm\.", _AT + r"transformer_blocks\.\d+\.img_mlp\."
    ),
    _unsupported("a Lens checkpoint", _AT + r"transformer_blocks\.\d+\.img_mlp\.w1\."),
    _unsupported("a Mage-Flow checkpoint", _AT + r"txt_norm\.weight 2560$", _AT + r"proj_out\.weight 128x", alike=True),
    _unsupported("a Cosmos-Predict2 14B checkpoint", _AT + r"x_embedder\.proj\.1\.weight 5120x", alike=True),
    _unsupported(
        "a Cosmos-Predict2 14B checkpoint",
        _AT + r"transformer_blocks\.0\.norm1\.linear_1\.",
        _AT + r"patch_embed\.proj\.weight 5120x",
        alike=True,
    ),
    _unsupported("a Cosmos checkpoint", _AT + r"blocks\.block\d+\.blocks\."),
    _unsupported("a Wan VACE checkpoint", _AT + r"vace_(?:blocks|patch_embedding)\."),
    _unsupported("a Wan Animate checkpoint", _AT + r"(?:face_adapter|motion_encoder|pose_patch_embedding)\."),
    _unsupported("a Wan S2V checkpoint", _AT + r"casual_audio_encoder\."),
    _unsupported("a Wan HuMo checkpoint", _AT + r"audio_proj\.audio_proj_glob"),
    _unsupported("a Wan Camera checkpoint", _AT + r"control_adapter\."),
    _unsupported("a Wan SCAIL checkpoint", _AT + r"patch_embedding_pose\."),
    _unsupported("a Mochi checkpoint", _AT + r"(?:t5_yproj|t5_y_embedder|blocks\.\d+\.attn\.qkv_y)\b"),
    _unsupported(
        "a Mochi checkpoint", _AT + r"transformer_blocks\.\d+\.norm1_context\.", _AT + r"time_embed\.pooler\."
    ),
    _unsupported(
        "a CogVideoX or CogView checkpoint",
        _AT + r"(?:transformer\.layers\.\d+\.attention\.query_key_value\."
        r"|mixins\.(?:final_layer|adaln_layer)\.)",
    ),
    _unsupported("a CogVideoX or CogView checkpoint", _AT + r"patch_embed\.text_proj\."),
    _unsupported("an LTX-2 checkpoint", _AT + r"(?:audio_patchify_proj|audio_adaln_single|av_ca_\w+)\."),
    _unsupported("an LTX-Video checkpoint", _AT + r"adaln_single\.emb\.timestep_embedder\."),
    _unsupported("an Ideogram checkpoint", _AT + r"embed_image_indicator\.weight "),
    _unsupported("a Stable Cascade checkpoint", _AT + r"clip(?:_txt)?_mapper\.weight "),
    _unsupported("a Stable Video Diffusion checkpoint", r"time_(?:stack|mixer)\."),
    _unsupported("a Stable Video Diffusion checkpoint", r"temporal_transformer_blocks\."),
    _unsupported(
        "a Stable Diffusion 2.x unCLIP checkpoint",
        _VECTOR,
        _UNET + r"(?:input_blocks\.1\.1|down_blocks\.0\.attentions\.0)\.proj_in\.weight \d+x\d+$",
    ),
)


def unsupported(tensors: Tensors) -> Unsupported | None:
    """The family that the tensors look like, if it is known and not supported."""
    return _first(UNSUPPORTED, tensors)


def alike(tensors: Tensors) -> Unsupported | None:
    """The same, of those alone whose modules are those of a supported model."""
    return _first((family for family in UNSUPPORTED if family.alike), tensors)


def _first(families: Iterable[Unsupported], tensors: Tensors) -> Unsupported | None:
    lines = "\n".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in tensors.items())
    return next((family for family in families if family.fits(lines)), None)
