"""Krea 2: Raw and Turbo, and everything trained from them.

Keys of the single files: the repository ``krea-ai/krea-2``; names of diffusers: its ``Krea2Transformer2DModel``. The hidden
states of twelve layers of the text encoder are fused to one by a small transformer of its own. Keys and values are a quarter
as wide as queries, and a gate decides how much of an attention's output is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.layout import KeyLayout, Share, Slot, Spelling, shrink
from lib_transfer.architecture.transformer import (
    FREQUENCIES,
    GENERIC,
    PART,
    WRAPPED_KEY_LAYOUTS,
    WRAPPED_NAMINGS,
    Place,
    at,
    slots,
)

LATENT = 64  # 16 channels in patches of 2 x 2
TEXT_LAYERS = 12
FUSION = (("layerwise_blocks", "T"), ("refiner_blocks", "R"))
FUSION_BLOCKS = 2  # of each kind


@dataclass(frozen=True)
class Sizes:
    """The sizes of a block.

    Attributes:
        width: the width of the hidden states.
        inner: the width of the feed-forward.
        groups: how many times as wide as all keys all queries are.
    """

    width: int
    inner: int
    groups: int


@dataclass(frozen=True)
class Krea2:
    """The diffusion transformer of Krea 2.

    Attributes:
        model: what it is.
        depth: how many blocks.
        blocks: the sizes of the blocks.
        fusion: the sizes of those that fuse the text's hidden states.
        head: the width of an attention head.
    """

    model: str
    depth: int = 28
    blocks: Sizes = Sizes(6144, 16384, 4)
    fusion: Sizes = Sizes(2560, 6912, 1)
    head: int = 128
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        text = ("txtfusion.projector", "txtmlp.1", "txtmlp.3")
        return frozenset(("first", *text, "tmlp.0", "tmlp.2", "tproj.1", "last.linear"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Krea2:
        """The same structure, about ``width`` wide, in four times as many heads of 8 as keys have; latents stay."""
        of = self.blocks.width
        own = 4 * shrink(of // 4, width, of=of)
        inner, text, inner_text = (
            shrink(size, width, of=of) for size in (self.blocks.inner, self.fusion.width, self.fusion.inner)
        )
        return replace(self, blocks=Sizes(own, inner, 4), fusion=Sizes(text, inner_text, 1), head=8)


@lru_cache(maxsize=64)
def _slots(krea: Krea2) -> tuple[Slot, ...]:
    return slots(_places(krea))


def _places(krea: Krea2) -> Iterator[Place]:
    width, text = krea.blocks.width, krea.fusion.width
    first = (
        Place("first", "img_in", "first", (width, LATENT)),
        Place("tmlp.0", "time_embed.linear_1", "tmlp.0", (width, FREQUENCIES)),
        Place("tmlp.2", "time_embed.linear_2", "tmlp.2", (width, width)),
        Place("tproj.1", "time_mod_proj", "tproj.1", (6 * width, width)),
    )
    yield from at("embedding", "BASE", first)
    for stage, letter in FUSION:
        for number in range(FUSION_BLOCKS):
            native, name = f"txtfusion.{stage}.{number}", f"text_fusion.{stage}.{number}"
            places = _block(krea.fusion, krea.head, native, name)
            yield from at(stage, f"{letter}{number:02}", places, native)
        if stage == "layerwise_blocks":
            projector = Place("txtfusion.projector", "text_fusion.projector", "projector", (1, TEXT_LAYERS), bias=False)
            yield from at("text", "BASE", [projector])
    into = (
        _scale("txtmlp.0", "txt_in.norm", "txtmlp.0", text),
        Place("txtmlp.1", "txt_in.linear_1", "txtmlp.1", (width, text)),
        Place("txtmlp.3", "txt_in.linear_2", "txtmlp.3", (width, width)),
    )
    yield from at("text", "BASE", into)
    for number in range(krea.depth):
        native, name = f"blocks.{number}", f"transformer_blocks.{number}"
        yield from at("blocks", f"B{number:02}", _block(krea.blocks, krea.head, native, name), native)
    last = (
        _scale("last.norm", "final_layer.norm", "norm", width),
        Place("last.linear", "final_layer.linear", "linear", (LATENT, width)),
    )
    yield from at("final", "FINAL", last)


def _block(sizes: Sizes, head: int, native: str, name: str) -> Iterator[Place]:
    width, keys = sizes.width, sizes.width // sizes.groups
    yield _scale(f"{native}.prenorm", f"{name}.norm1", "prenorm", width)
    # SimpleTuner joins queries, keys and values; in units of the width of all keys.
    queries = sizes.groups
    parts = (("q", width, (0, queries)), ("k", keys, (queries, queries + 1)), ("v", keys, (queries + 1, queries + 2)))
    for word, out, units in parts:
        others = (Spelling("diffusers", f"{name}.attn.to_qkv", Share((units,), queries + 2)),)
        yield _layer(f"{native}.attn.w{word}", f"{name}.attn.to_{word}", (out, width), others)
    for word in "qk":
        path = f"attn.qknorm.{word}norm"
        yield _scale(f"{native}.{path}", f"{name}.attn.norm_{word}", path, head)
    yield _layer(f"{native}.attn.gate", f"{name}.attn.to_gate", (width, width))
    # Both programs know the output without its number too.
    short = (Spelling("diffusers", f"{name}.attn.to_out"),)
    yield _layer(f"{native}.attn.wo", f"{name}.attn.to_out.0", (width, width), short)
    yield _scale(f"{native}.postnorm", f"{name}.norm2", "postnorm", width)
    for word in ("gate", "up", "down"):
        shape = (width, sizes.inner) if word == "down" else (sizes.inner, width)
        yield _layer(f"{native}.mlp.{word}", f"{name}.ff.{word}", shape)


def _layer(native: str, name: str, shape: tuple[int, int], others: tuple[Spelling, ...] = ()) -> Place:
    """A layer of a block; none has a bias. Its role is the end of its path."""
    return Place(native, name, ".".join(native.split(".")[-2:]), shape, bias=False, others=others)


def _scale(native: str, name: str, role: str, width: int) -> Place:
    """A norm, whose parameter is called scale."""
    return Place(native, name, role, (width,), bias=False, parameter="scale")


KREA_2 = Architecture(
    id="krea-2",
    title="Krea 2",
    family="krea-2",
    card_version="Unknown",
    base_model_version="krea2",
    v2=False,
    modelspec_architecture="Krea-2/lora",
    modelspec_implementation="https://github.com/krea-ai/krea-2",
    core=Krea2("krea-2-transformer"),
    text_encoders=(),
    namings=WRAPPED_NAMINGS,
    hosts="Forge Neo or ComfyUI",
    also_loaded=(*GENERIC, *(("diffusers", it) for it in ("diffusion_model.", "transformer.", "", "lycoris_"))),
)
