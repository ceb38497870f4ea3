"""Stable Diffusion 3 and 3.5: medium and large, turbo, and everything trained from them.

Keys of the single files: Stability AI's ``sd3.5`` repository (``mmditx.py``); names and rows of diffusers: its
``SD3Transformer2DModel``. A joint block has two streams, the image's (``x_block``) and the text's (``context_block``);
the text's of the last block ends in its attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.clip import clip_g, clip_l, hf_key_layouts, projecting
from lib_transfer.architecture.layout import KeyLayout, Slot, shrink
from lib_transfer.architecture.names import text_namings
from lib_transfer.architecture.t5 import shrunk_width, t5_xxl
from lib_transfer.architecture.transformer import (
    CLIP_L_NAMINGS,
    FREQUENCIES,
    GENERIC,
    IMAGE,
    KEY_LAYOUTS,
    NAMINGS,
    PART,
    TEXT,
    Place,
    Stream,
    at,
    diffsynth,
    feed_forward,
    fused,
    slots,
    t5_namings,
)

CHANNELS, PATCH = 16, 2

STREAMS = (("x_block", IMAGE), ("context_block", TEXT))

# The second attention of 3.5 medium's first blocks.
SECOND = replace(
    IMAGE,
    parts=("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    out="attn2.to_out.0",
    norms=("attn2.norm_q", "attn2.norm_k"),
    whole=("attn2.to_qkv",),
)


@dataclass(frozen=True)
class MMDiT:
    """The diffusion transformer of Stable Diffusion 3.

    Attributes:
        model: what it is.
        depth: how many joint blocks.
        width: the width of the hidden states.
        normed: whether queries and keys are normalised.
        dual: how many blocks, from the first, have a second attention, of the image to itself.
        head: the width of an attention head.
        context: the width of the text encoders' hidden states.
        pooled: the widths of the two pooled texts.
    """

    model: str
    depth: int
    width: int
    normed: bool
    dual: int = 0
    head: int = 64
    context: int = 4096
    pooled: tuple[int, ...] = (768, 1280)
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, the embeddings of time and text, and what tells the versions apart."""
        layers = (f"{name}_embedder.mlp.{layer}" for name in "ty" for layer in (0, 2))
        ends = ("x_embedder.proj", "context_embedder", "final_layer.adaLN_modulation.1", "final_layer.linear")
        first = "joint_blocks.0.x_block"
        normed = (f"{first}.attn.ln_q",) if self.normed else ()
        dual = (f"{first}.attn2.proj",) if self.dual else ()
        return frozenset((*layers, *ends, *normed, *dual))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> MMDiT:
        """The same structure, about ``width`` wide, in heads of 8; latents and frequencies stay."""
        return replace(
            self,
            width=shrink(self.width, width, of=self.width),
            head=8,
            context=shrunk_width(width),
            pooled=tuple(shrink(size, width) for size in self.pooled),
        )


@lru_cache(maxsize=64)
def _slots(mmdit: MMDiT) -> tuple[Slot, ...]:
    return slots(_places(mmdit))


def _places(mmdit: MMDiT) -> Iterator[Place]:
    yield from at("embedding", "BASE", _embeddings(mmdit))
    for number in range(mmdit.depth):
        path = f"joint_blocks.{number}"
        yield from at("joint", f"J{number:02}", _block(mmdit, number, path, f"transformer_blocks.{number}"), path)
    width, out = mmdit.width, PATCH * PATCH * CHANNELS
    modulation = "final_layer.adaLN_modulation.1"
    last = (
        Place(modulation, "norm_out.linear", "adaLN_modulation.1", (2 * width, width), swapped=True),
        Place("final_layer.linear", "proj_out", "linear", (out, width)),
    )
    yield from at("final", "FINAL", last)


def _embeddings(mmdit: MMDiT) -> Iterator[Place]:
    width = mmdit.width
    yield Place("x_embedder.proj", "pos_embed.proj", "x_embedder.proj", (width, CHANNELS, PATCH, PATCH))
    inputs = (("t_embedder", "timestep_embedder", FREQUENCIES), ("y_embedder", "text_embedder", sum(mmdit.pooled)))
    for native, name, size in inputs:
        for layer, number, seen in ((0, 1, size), (2, 2, width)):
            path = f"{native}.mlp.{layer}"
            yield Place(path, f"time_text_embed.{name}.linear_{number}", path, (width, seen))
    yield Place("context_embedder", "context_embedder", "context_embedder", (width, mmdit.context))


def _block(mmdit: MMDiT, number: int, native: str, name: str) -> Iterator[Place]:
    """Both streams, as far as the attention they share; then both, from there on."""
    dual = number < mmdit.dual
    for word, stream in STREAMS:
        ends = word == "context_block" and number == mmdit.depth - 1
        vectors = 2 if ends else 9 if word == "x_block" and dual else 6
        path, shape = f"{native}.{word}.adaLN_modulation.1", (vectors * mmdit.width, mmdit.width)
        role = f"{word}.adaLN_modulation.1"
        # In which order DiffSynth-Studio has the halves of the last one is not known.
        others = () if ends else diffsynth(f"{_synth(native)}.norm1_{stream.letter}.linear")
        yield Place(path, f"{name}.{stream.norm}.linear", role, shape, swapped=ends, others=others)
        yield from _attention(mmdit, native, name, word, "attn", stream)
    if dual:
        yield from _attention(mmdit, native, name, "x_block", "attn2", SECOND)
        yield _out(mmdit, native, name, "x_block", "attn2", SECOND)
    for word, stream in STREAMS:
        if word == "x_block" or number < mmdit.depth - 1:
            yield _out(mmdit, native, name, word, "attn", stream)
            roles = (f"{word}.mlp.fc1", f"{word}.mlp.fc2")
            paths = (f"{native}.{roles[0]}", f"{native}.{roles[1]}")
            synth = f"{_synth(native)}.ff_{stream.letter}"
            yield from feed_forward(paths, f"{name}.{stream.feed_forward}", roles, mmdit.width, synth)


def _attention(mmdit: MMDiT, native: str, name: str, word: str, attn: str, stream: Stream) -> Iterator[Place]:
    role = f"{word}.{attn}"
    path, parts = f"{native}.{role}", (f"{name}.{part}" for part in stream.parts)
    whole = [("diffusers", f"{name}.{fused_path}") for fused_path in stream.whole]
    if attn == "attn":
        whole.append(("diffsynth", f"{_synth(native)}.attn.{stream.letter}_to_qkv"))
    yield from fused(f"{path}.qkv", parts, role, mmdit.width, whole)
    for norm, other in zip(("ln_q", "ln_k"), stream.norms, strict=True):
        if mmdit.normed:
            yield Place(f"{path}.{norm}", f"{name}.{other}", f"{role}.{norm}", (mmdit.head,), bias=False)


def _out(mmdit: MMDiT, native: str, name: str, word: str, attn: str, stream: Stream) -> Place:
    role = f"{word}.{attn}.proj"
    others = diffsynth(f"{_synth(native)}.attn.{stream.letter}_to_out") if attn == "attn" else ()
    return Place(f"{native}.{role}", f"{name}.{stream.out}", role, (mmdit.width, mmdit.width), others=others)


def _synth(native: str) -> str:
    """A joint block in DiffSynth-Studio's words."""
    return native.removeprefix("joint_")


SD3_MEDIUM = Architecture(
    id="sd3-medium",
    title="Stable Diffusion 3 medium",
    family="sd3-medium",
    card_version="Unknown",
    base_model_version="sd3_m",
    v2=False,
    modelspec_architecture="stable-diffusion-3-medium/lora",
    modelspec_implementation="https://github.com/Stability-AI/generative-models",
    core=MMDiT("sd3-medium-transformer", depth=24, width=1536, normed=False),
    text_encoders=(
        projecting(clip_l("te1", *hf_key_layouts("text_encoders.clip_l.transformer.", "text_encoder."))),
        projecting(clip_g("te2", *hf_key_layouts("text_encoders.clip_g.transformer.", "text_encoder_2."))),
        t5_xxl("text_encoders.t5xxl.transformer.", "text_encoder_3."),
    ),
    namings=(
        *NAMINGS,
        *CLIP_L_NAMINGS,
        *text_namings("te2", underscored=("lora_te2_",), folder="text_encoder_2.", comfy="clip_g"),
        *t5_namings("text_encoder_3."),
    ),
    hosts="Forge",
    also_loaded=GENERIC,
)

SD35_MEDIUM = replace(
    SD3_MEDIUM,
    id="sd3.5-medium",
    title="Stable Diffusion 3.5 medium",
    family="sd3.5-medium",
    modelspec_architecture="stable-diffusion-3-5-medium/lora",
    core=MMDiT("sd3.5-medium-transformer", depth=24, width=1536, normed=True, dual=13),
)

SD35_LARGE = replace(
    SD3_MEDIUM,
    id="sd3.5-large",
    title="Stable Diffusion 3.5 large",
    family="sd3.5-large",
    modelspec_architecture="stable-diffusion-3-5-large/lora",
    core=MMDiT("sd3.5-large-transformer", depth=38, width=2432, normed=True),
)
