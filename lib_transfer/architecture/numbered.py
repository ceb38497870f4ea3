"""The names of cloneofsimo's ``lora`` (2022-23): layers by their number, in the order in which their model holds them.

``unet:7:up`` is the eighth linear layer of the attentions and of the first halves of the feed-forwards of diffusers'
``UNet2DConditionModel`` as it was then; its extended files number the layers of the residual blocks too.
``text_encoder:3:down`` is the fourth of the attentions of transformers' ``CLIPTextModel``.
Read from ``lora_diffusion/lora.py``: ``_find_modules_v2`` and ``save_safeloras``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lib_transfer.architecture.layout import Layout, Share, Slot
from lib_transfer.spelling import EXTENDED, FORWARD, NEW, OLD

_FIRST = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
_SECOND = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
_FEED_FORWARD = ("ff.net.0.proj",)
_RESIDUAL = ("conv1", "time", "conv2", "skip")

ROLES: Mapping[str, tuple[str, ...]] = {
    OLD: _FIRST + _FEED_FORWARD + _SECOND,
    NEW: _FIRST + _SECOND + _FEED_FORWARD,
    FORWARD: _FIRST + _SECOND + _FEED_FORWARD,
    EXTENDED: _FIRST + _FEED_FORWARD + _SECOND + _RESIDUAL,
    "text_encoder": ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"),
}
"""The roles of the layers that are numbered, in their order within a block."""

_BLOCKS = ("down_blocks", "up_blocks", "mid_block", "text_model")
_FORWARD = ("down_blocks", "mid_block", "up_blocks")
_LISTS = ("attentions", "resnets")


@dataclass(frozen=True)
class Numbered:
    """The numbers of one part's layers as a naming.

    Attributes:
        layout: the part.
        group: which of its layers are numbered.
    """

    layout: Layout
    group: str

    @property
    def part(self) -> str:
        """The part whose places it names."""
        return self.layout.part

    @property
    def style(self) -> str:
        """No host loads these names."""
        return "numbered"

    def names(self, slot: Slot) -> Iterable[tuple[str, Share | None]]:
        """The slot's name, if it is numbered."""
        number = _numbers(self.layout, self.group).get(slot.path)
        return () if number is None else ((f"{self.group}:{number}", None),)


def numbered_namings(core: Layout, text_encoder: Layout) -> tuple[Numbered, ...]:
    """The namings of a model with this UNet and this text encoder."""
    return tuple(Numbered(text_encoder if group == "text_encoder" else core, group) for group in ROLES)


@lru_cache(maxsize=32)
def _numbers(layout: Layout, group: str) -> dict[str, int]:
    """The number of each layer, by the path of its slot."""
    roles = ROLES[group]
    places = []
    for slot in layout.slots():
        if slot.position.role in roles and slot.position.unit:
            path = next(s.path for s in slot.spellings if s.style in ("diffusers", "hf"))
            blocks = _FORWARD if group == FORWARD else _BLOCKS
            places.append((_order(path, blocks), roles.index(slot.position.role), slot.path))
    return {path: number for number, (_, _, path) in enumerate(sorted(places))}


def _order(path: str, blocks: tuple[str, ...]) -> tuple[int, int, int, tuple[int, ...]]:
    """Where a module of diffusers or transformers stands: its block, in it the list of attentions or of residual blocks."""
    first, *rest = path.split(".")
    which = next((place for place, word in enumerate(rest) if word in _LISTS), 0)
    block = int(rest[0]) if which else 0
    kind = _LISTS.index(rest[which]) if rest[which] in _LISTS else 0
    within = tuple(int(word) for word in rest[which:] if word.isdigit())
    # Numbers behind the unit's own (to_out.0) are the same in every unit, and the role orders them.
    return blocks.index(first), block, kind, within[:2]
