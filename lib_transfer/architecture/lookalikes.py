"""What else people hand in where a checkpoint is asked for, and how its keys give it away."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lib_transfer.architecture.architecture import Tensors


@dataclass(frozen=True)
class Lookalike:
    """Something that is not a supported checkpoint.

    Attributes:
        what: completes "This is ...".
        patterns: regular expressions that must all be found among the lines ``key ndim``.
        hint: what the person can do.
        absent: a regular expression that must not be found.
    """

    what: str
    patterns: tuple[str, ...]
    hint: str = ""
    absent: str | None = None

    def fits(self, lines: str) -> bool:
        """Whether tensors, as lines ``key ndim``, look like it."""
        if self.absent is not None and re.search(self.absent, lines, re.MULTILINE):
            return False
        return all(re.search(pattern, lines, re.MULTILINE) for pattern in self.patterns)


def _part(what: str, *patterns: str) -> Lookalike:
    return Lookalike(f"{what}, not a checkpoint", patterns, "Choose a full checkpoint.")


def _unsupported(what: str, *patterns: str) -> Lookalike:
    return Lookalike(f"{what}, which is not supported yet", patterns)


def _alone(what: str, *patterns: str) -> Lookalike:
    """A part that full checkpoints hold too, beside a diffusion model."""
    beside = r"diffusion_model\.|^unet\.|^transformer\.(single_)?transformer_blocks\."
    return Lookalike(f"{what} alone, not a checkpoint", patterns, "Choose a full checkpoint.", beside)


_UNET = r"^(model\.)?(diffusion_model\.)?"
_VECTOR = _UNET + r"label_emb\.0\.0\.weight 2$"

# From the most telling to the vaguest: the first that fits is named.
LOOKALIKES = (
    _part("a ControlNet", r"^(lora_)?control(_model|net)|input_hint_block|^lllite_"),
    _part("a motion module", r"motion_modules\."),
    _part("a LoRA", r"lora_(up|down|A|B)\b|[._]lora[12]?\.(up|down)\.|lora_linear_layer"),
    _part("a LoRA", r"\.(hada_|lokr_|oft_|a1\.weight |diff(_b)? |w_norm |on_input )"),
    _part("an IP-Adapter", r"^(image_proj|ip_adapter)\."),
    _part("a textual-inversion embedding", r"^(emb_params|string_to_param|clip_[lg] )"),
    _part("a Flux Redux model", r"^redux_(up|down)\."),
    _unsupported("a Flux.2 checkpoint", r"double_stream_modulation_img\."),
    _unsupported("a Chroma Radiance checkpoint", r"nerf_blocks\."),
    _unsupported("a HunyuanVideo or HunyuanImage checkpoint", r"txt_in\.individual_token_refiner\.|byt5_in\."),
    _unsupported("a HiDream checkpoint", r"caption_projection\.0\.linear\."),
    _unsupported("an AuraFlow checkpoint", r"double_layers\.\d+\.attn\.w1q\."),
    _unsupported("a PixArt checkpoint", r"t_block\.1\.weight "),
    _unsupported("a Lumina 2 or Z-Image checkpoint", r"cap_embedder\.1\.weight "),
    _unsupported("a Qwen-Image checkpoint", r"transformer_blocks\.\d+\.img_mod\.1\."),
    _unsupported("a Wan checkpoint", r"head\.modulation "),
    _unsupported("an LTX-Video checkpoint", r"adaln_single\.emb\.timestep_embedder\."),
    _unsupported("a Stable Cascade checkpoint", r"clip(_txt)?_mapper\.weight "),
    _unsupported("a Stable Video Diffusion checkpoint", r"time_(stack|mixer)\."),
    _unsupported(
        "a Stable Diffusion 2.x unCLIP checkpoint", _VECTOR, _UNET + r"input_blocks\.1\.1\.proj_in\.weight 2$"
    ),
    _part("a CLIP vision model", r"^(vision_model|visual)\."),
    _alone("a VAE", r"^(first_stage_model\.|vae\.)?(en|de)coder\.(mid|up|down|conv_in|conv_out)"),
    _alone("a text encoder", r"(encoder\.layers|transformer\.resblocks|encoder\.block)\.\d+\."),
)


def lookalike(tensors: Tensors) -> Lookalike | None:
    """What the tensors look like, if it is something known."""
    lines = "\n".join(f"{key} {len(shape)}" for key, shape in tensors.items())
    return next((it for it in LOOKALIKES if it.fits(lines)), None)
