"""How one module of an adapter is spelled in several ways."""

from __future__ import annotations

import re
from functools import lru_cache

# Prefixes of names whose path has underscores for its dots.
_UNDERSCORED = re.compile(r"(lora_(?:unet|te\d?|transformer)|oft_unet|lycoris)[._]+(.+)", re.DOTALL)
# What torch.compile, FSDP and activation checkpointing put a model or a block in, and DistributedDataParallel a whole model.
_WRAPPERS = re.compile(r"(?:\A|_)(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)(?=_)|\Amodule(?=_)")


@lru_cache(maxsize=1 << 16)
def usual(name: str) -> str:
    """A module's name in its usual spelling.

    Behind one of kohya's prefixes there are single underscores alone, where files have dots (ai-toolkit's
    ``lora_te1.text_model...``, diffusers' conversion to kohya's names) or one underscore too many
    (``lora_unet__down_blocks...``), and no wrappers around the model (``lora_unet_module__orig_mod_down_blocks...``).
    """
    found = _UNDERSCORED.fullmatch(name)
    if found is None:
        return name
    path = re.sub("[._]+", "_", found[2])
    return f"{found[1]}_{_WRAPPERS.sub('', path).lstrip('_')}"


# Orders in which cloneofsimo's ``lora`` may have numbered the layers of a UNet, as the beginnings of names.
OLD = "unet"
"""Attention, feed-forward, cross-attention; the ways down and up, then the middle."""
NEW = "unet, feed-forward last"
"""As newer versions of diffusers have it: both attentions before the feed-forward."""
FORWARD = "unet, middle in the middle"
"""As the newer versions, with the middle between the way down and the way up."""
EXTENDED = "unet with residual blocks"
"""As the first, with the layers of the residual blocks behind a block's attentions."""
