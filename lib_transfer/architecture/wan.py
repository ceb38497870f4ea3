"""Wan 2.1 and 2.2, models of videos and of pictures, and everything trained from them.

Keys of the single files: the repositories ``Wan2.1`` and ``Wan2.2``; names of diffusers: its ``WanTransformer3DModel``. The
14B model of 2.1 and both of 2.2, for much and for little noise, have one structure; which of them a file is, only its weights
tell. Of those that begin with a picture, 2.1's reads it by CLIP too, and 2.2's are the same structure with a wider way in.
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

PATCH = (1, 2, 2)  # frames and pixels

# The projections of an attention, in the original's words and in diffusers'.
PROJECTIONS = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
OF_PICTURE = (("k_img", "add_k_proj"), ("v_img", "add_v_proj"))

# What diffusers' fuse_projections joins, by the attention: the name, and the letters of the parts.
JOINED = {"self_attn": ("to_qkv", "qkv"), "cross_attn": ("to_kv", "kv")}


@dataclass(frozen=True)
class Wan:
    """The diffusion transformer of Wan.

    Attributes:
        model: what it is.
        depth: how many blocks.
        width: the width of the hidden states.
        inner: the width of the feed-forward.
        latent: the channels of the latents that go in, and of those that come out.
        picture: the width of CLIP's hidden states of the picture that a video begins with; 0 where it is not read so.
        text: the width of the text encoder's hidden states.
    """

    model: str
    depth: int
    width: int
    inner: int
    latent: int = 16
    picture: int = 0
    text: int = 4096
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        text_and_time = (f"{name}_embedding.{layer}" for name in ("text", "time") for layer in (0, 2))
        return frozenset(("patch_embedding", *text_and_time, "time_projection.1", "head.head"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Wan:
        """The same structure, about ``width`` wide; latents and frequencies stay."""
        own, inner, text = (shrink(size, width, of=self.width) for size in (self.width, self.inner, self.text))
        picture = shrink(self.picture, width, of=self.width) if self.picture else 0
        return replace(self, width=own, inner=inner, text=text, picture=picture)


@lru_cache(maxsize=64)
def _slots(wan: Wan) -> tuple[Slot, ...]:
    return slots(_places(wan))


def _places(wan: Wan) -> Iterator[Place]:
    yield from at("embedding", "BASE", _embeddings(wan))
    for number in range(wan.depth):
        path = f"blocks.{number}"
        yield from at("blocks", f"B{number:02}", _block(wan, path), path)
    yield from at("final", "FINAL", _final(wan))


def _embeddings(wan: Wan) -> Iterator[Place]:
    width, condition = wan.width, "condition_embedder"
    first = (width, wan.latent, *PATCH)
    yield Place("patch_embedding", "patch_embedding", "patch_embedding", first, kind="convolution")
    for word, seen in (("text", wan.text), ("time", FREQUENCIES)):
        for layer, number, into in ((0, 1, seen), (2, 2, width)):
            path = f"{word}_embedding.{layer}"
            yield Place(path, f"{condition}.{word}_embedder.linear_{number}", path, (width, into))
    yield Place("time_projection.1", f"{condition}.time_proj", "time_projection.1", (6 * width, width))
    if wan.picture:
        into = wan.picture
        layers: dict[int, tuple[str, tuple[int, ...]]] = {
            0: ("norm1", (into,)),
            1: ("ff.net.0.proj", (into, into)),
            3: ("ff.net.2", (width, into)),
            4: ("norm2", (width,)),
        }
        for layer, (name, shape) in layers.items():
            path = f"img_emb.proj.{layer}"
            yield Place(path, f"{condition}.image_embedder.{name}", path, shape)


def _block(wan: Wan, path: str) -> Iterator[Place]:
    width = wan.width
    # What the time is added to before it scales and shifts the block's steps.
    yield _modulation(path, 6, width)
    yield from _attention(wan, path, "self_attn", "attn1")
    yield Place(f"{path}.norm3", f"{path}.norm2", "norm3", (width,))
    yield from _attention(wan, path, "cross_attn", "attn2")
    yield Place(f"{path}.ffn.0", f"{path}.ffn.net.0.proj", "ffn.0", (wan.inner, width))
    yield Place(f"{path}.ffn.2", f"{path}.ffn.net.2", "ffn.2", (width, wan.inner))


def _modulation(path: str, steps: int, width: int) -> Place:
    name = f"{path}.scale_shift_table" if path.startswith("blocks") else "scale_shift_table"
    shape = (1, steps, width)
    return Place(f"{path}.modulation", name, "modulation", shape, parameter="", kind="norm")


def _attention(wan: Wan, path: str, step: str, name: str) -> Iterator[Place]:
    """An attention to the video, or to the text and, where CLIP has read one, a picture."""
    native, theirs, square = f"{path}.{step}", f"{path}.{name}", (wan.width, wan.width)
    joined, letters = JOINED[step]
    for word, part in PROJECTIONS:
        share = letters.find(word)
        rows = Share(((share, share + 1),), len(letters))
        others = (Spelling("diffusers", f"{theirs}.{joined}", rows),) if share >= 0 else ()
        yield Place(f"{native}.{word}", f"{theirs}.{part}", f"{step}.{word}", square, others=others)
    for word in "qk":
        yield _norm(f"{native}.norm_{word}", f"{theirs}.norm_{word}", f"{step}.norm_{word}", wan.width)
    if wan.picture and step == "cross_attn":
        for word, part in OF_PICTURE:
            yield Place(f"{native}.{word}", f"{theirs}.{part}", f"{step}.{word}", square)
        yield _norm(f"{native}.norm_k_img", f"{theirs}.norm_added_k", f"{step}.norm_k_img", wan.width)


def _norm(native: str, name: str, role: str, width: int) -> Place:
    return Place(native, name, role, (width,), bias=False)


def _final(wan: Wan) -> Iterator[Place]:
    yield _modulation("head", 2, wan.width)
    yield Place("head.head", "proj_out", "head", (4 * wan.latent, wan.width))


WAN_14B = Architecture(
    id="wan-14b",
    title="Wan 14B",
    family="wan-14b",
    card_version="Unknown",
    base_model_version="wan",
    v2=False,
    modelspec_architecture="wan2.1/lora",
    modelspec_implementation="https://github.com/Wan-Video/Wan2.1",
    core=Wan("wan-14b-transformer", depth=40, width=5120, inner=13824),
    text_encoders=(),
    namings=WRAPPED_NAMINGS,
    hosts="Forge Neo or ComfyUI",
    also_loaded=GENERIC,
    # The places of a first and a last picture.
    beside=("img_emb.emb_pos",),
    rows=(("head.head", 64),),
)

WAN_I2V_14B = replace(
    WAN_14B,
    id="wan-i2v-14b",
    title="Wan 2.1 I2V 14B",
    core=Wan("wan-i2v-14b-transformer", depth=40, width=5120, inner=13824, picture=1280),
)

WAN_1_3B = replace(
    WAN_14B,
    id="wan-1.3b",
    title="Wan 2.1 1.3B",
    family="wan-1.3b",
    core=Wan("wan-1.3b-transformer", depth=30, width=1536, inner=8960),
)

WAN_5B = replace(
    WAN_14B,
    id="wan-5b",
    title="Wan 2.2 5B",
    family="wan-5b",
    modelspec_architecture="wan2.2/lora",
    modelspec_implementation="https://github.com/Wan-Video/Wan2.2",
    core=Wan("wan-5b-transformer", depth=30, width=3072, inner=14336, latent=48),
    rows=(("head.head", 192),),
)
