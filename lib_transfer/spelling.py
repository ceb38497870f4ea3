"""How one module of an adapter is spelled in several ways."""

from __future__ import annotations

import re
from functools import lru_cache

# What torch.compile and DistributedDataParallel put a model in.
_WRAPPERS = re.compile(r"(?:(?<=\.)|\A)(?:_orig_mod|module)\.")
# Prefixes of names whose path has underscores for its dots.
_UNDERSCORED = re.compile(
    r"(lora_(?:unet|te\d?|transformer)|oft_unet|lycoris)[._]+(?:(?:orig_mod|module)[._]+)?(.+)", re.DOTALL
)


@lru_cache(maxsize=1 << 16)
def usual(name: str) -> str:
    """A module's name in its usual spelling.

    Without the levels of wrappers around the model; and behind one of kohya's prefixes with single underscores alone, where
    files have dots (ai-toolkit's ``lora_te1.text_model...``, diffusers' conversion to kohya's names) or one underscore
    too many (``lora_unet__down_blocks...``).
    """
    name = _WRAPPERS.sub("", name)
    found = _UNDERSCORED.fullmatch(name)
    return name if found is None else f"{found[1]}_{re.sub('[._]+', '_', found[2])}"


# Orders in which cloneofsimo's ``lora`` may have numbered the layers of a UNet, as the beginnings of names.
OLD = "unet"
"""Attention, feed-forward, cross-attention; the ways down and up, then the middle."""
NEW = "unet, feed-forward last"
"""As newer versions of diffusers have it: both attentions before the feed-forward."""
FORWARD = "unet, middle in the middle"
"""As the newer versions, with the middle between the way down and the way up."""
EXTENDED = "unet with residual blocks"
"""As the first, with the layers of the residual blocks behind a block's attentions."""
