"""What an adapter consists of, for a person: algorithms, ranks, number format, and the tools that its names are from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from lib_transfer.formats.adapter import Adapter, Group
from lib_transfer.formats.algorithms import lora
from lib_transfer.formats.checkpoint import Contents
from lib_transfer.spelling import usual


@dataclass(frozen=True)
class Description:
    """What an adapter consists of, for a person.

    Attributes:
        algorithms: how many modules are written in each algorithm, by its title.
        ranks: how many modules have each rank.
        convolutions: how many modules change a kernel larger than 1x1.
        dtype: the number format most tensors have.
        prefixes: how many modules begin with each family's prefix; ``other`` for none of them.
        unread: how many modules are not used, by the kind of reason.
    """

    algorithms: dict[str, int]
    ranks: dict[int, int]
    convolutions: int
    dtype: str
    prefixes: dict[str, int]
    unread: dict[str, int]


# A prefix names the tool that wrote the file; which module a name means is looked up elsewhere, not parsed here.
_PREFIXES = (
    "lora_unet_",
    "lora_te_",
    "lora_te1_",
    "lora_te2_",
    "lora_te3_",
    "lora_transformer_",
    "lora_prior_",
    "lycoris_",
    "oft_unet_",
    "base_model.model.",
    "diffusion_model.",
    "transformer.",
    "net.",
    "unet.",
    "text_conditioner.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "text_encoders.",
    "clip_l.",
    "clip_g.",
    "t5.",
    "unet:",
    "text_encoder:",
    "unet",
)


def describe(adapter: Adapter) -> Description:
    """What ``adapter`` consists of: algorithms, ranks, convolutions, number format, name families, what is not read."""
    groups = adapter.groups.values()
    low_rank = [_low_rank_shape(group, adapter.header) for group in groups if lora.DOWN in group.keys]
    dtypes = Counter(info.dtype for info in adapter.header.tensors.values() if info.shape)
    return Description(
        algorithms=dict(Counter(group.algorithm.title for group in groups)),
        ranks=dict(sorted(Counter(rank for rank, _ in low_rank).items())),
        convolutions=sum(kernel > 1 for _, kernel in low_rank),
        dtype=dtypes.most_common(1)[0][0] if dtypes else "",
        prefixes=dict(Counter(_prefix(group.name) for group in groups)),
        unread=dict(Counter(item.kind for item in adapter.unsupported)),
    )


def _low_rank_shape(group: Group, header: Contents) -> tuple[int, int]:
    """Rank and number of kernel positions of a LoRA group."""
    core = header.tensors[group.keys.get(lora.MID, group.keys[lora.DOWN])].shape
    return header.tensors[group.keys[lora.DOWN]].shape[0], math.prod(core[2:])


def _prefix(name: str) -> str:
    spelled = (name, usual(name))
    return next((prefix for prefix in _PREFIXES if any(it.startswith(prefix) for it in spelled)), "other")
