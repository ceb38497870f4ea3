"""Flux.1: dev and schnell, their Fill, Canny, Depth and Kontext variants, and everything trained from them.

Keys of the single files: Black Forest Labs' repository ``flux``; names and rows of diffusers: its
``FluxTransformer2DModel`` and ``ChromaTransformer2DModel``. Double blocks keep the image's and the text's tokens apart
(``img_``, ``txt_``), single blocks have them in one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.clip import clip_l, hf_key_layouts
from lib_transfer.architecture.layout import KeyLayout, Share, Slot, Spelling, shrink
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
    at,
    diffsynth,
    feed_forward,
    fused,
    slots,
    t5_namings,
)

LATENT = 64  # 16 channels in patches of 2 x 2
APPROXIMATOR_LAYERS = 5

# linear1 of a single block: q, k and v, then the first layer of the feed-forward, four times as wide.
SEVENTHS = {"q": Share(((0, 1),), 7), "k": Share(((1, 2),), 7), "v": Share(((2, 3),), 7), "mlp": Share(((3, 7),), 7)}

# The two streams of a double block, and the number that XLabs gives them.
STREAMS = (("img", IMAGE, 1), ("txt", TEXT, 2))


@dataclass(frozen=True)
class Flux:
    """The diffusion transformer of Flux.1 and Chroma.

    Attributes:
        model: what it is.
        guidance: whether the guidance scale is an input (dev).
        approximator: width of the network that computes all modulations at once (Chroma), which then has the place of
            the blocks' own modulations and of the embeddings of time, guidance and pooled text; 0 where there is none.
        double, single: how many blocks of each kind.
        width: the width of the hidden states.
        head: the width of an attention head.
        context: the width of the text encoder's hidden states.
        pooled: the width of the pooled text.
    """

    model: str
    guidance: bool = False
    approximator: int = 0
    double: int = 19
    single: int = 38
    width: int = 3072
    head: int = 128
    context: int = 4096
    pooled: int = 768
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        ends = ("img_in", "txt_in", "final_layer.linear")
        if self.approximator:
            return frozenset((*ends, "distilled_guidance_layer.in_proj", "distilled_guidance_layer.out_proj"))
        inputs = ("time_in", "vector_in", *(("guidance_in",) if self.guidance else ()))
        layers = (f"{name}.{layer}" for name in inputs for layer in ("in_layer", "out_layer"))
        return frozenset((*ends, *layers, "final_layer.adaLN_modulation.1"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Flux:
        """The same structure, about ``width`` wide, in heads of 8; latents and frequencies stay."""
        return replace(
            self,
            width=shrink(self.width, width, of=self.width),
            approximator=shrink(self.approximator, width, of=self.width) if self.approximator else 0,
            head=8,
            context=shrunk_width(width),
            pooled=shrink(self.pooled, width),
        )


@lru_cache(maxsize=64)
def _slots(flux: Flux) -> tuple[Slot, ...]:
    return slots(_places(flux))


def _places(flux: Flux) -> Iterator[Place]:
    yield from at("embedding", "BASE", _embeddings(flux))
    if flux.approximator:
        yield from _approximator(flux)
    for number in range(flux.double):
        path = f"double_blocks.{number}"
        yield from at("double", f"D{number:02}", _double_block(flux, path, f"transformer_blocks.{number}"), path)
    for number in range(flux.single):
        path = f"single_blocks.{number}"
        yield from at("single", f"S{number:02}", _single_block(flux, path, f"single_transformer_blocks.{number}"), path)
    yield from at("final", "FINAL", _final(flux))


def _embeddings(flux: Flux) -> Iterator[Place]:
    width = flux.width
    omi = (Spelling("omi", "img_in.proj"),)
    yield Place("img_in", "x_embedder", "img_in", (width, LATENT), others=omi)
    yield Place("txt_in", "context_embedder", "txt_in", (width, flux.context))
    if flux.approximator:
        return
    inputs = [
        ("time_in", "timestep_embedder", "time_embedder.timestep_embedder", FREQUENCIES),
        ("vector_in", "text_embedder", "pooled_text_embedder", flux.pooled),
    ]
    if flux.guidance:
        inputs.append(("guidance_in", "guidance_embedder", "guidance_embedder.timestep_embedder", FREQUENCIES))
    for native, name, synth, size in inputs:
        for layer, number, seen in (("in_layer", 1, size), ("out_layer", 2, width)):
            path, others = f"{native}.{layer}", diffsynth(f"{synth}.{2 * number - 2}")
            yield Place(path, f"time_text_embed.{name}.linear_{number}", path, (width, seen), others=others)


def _approximator(flux: Flux) -> Iterator[Place]:
    """Chroma's network of modulations: residual layers between a way in and a way out."""
    top, inner = "distilled_guidance_layer", flux.approximator
    path = f"{top}.in_proj"
    yield from at("guidance", "BASE", [Place(path, path, "in_proj", (inner, LATENT))])
    for number in range(APPROXIMATOR_LAYERS):
        norm, layer = f"{top}.norms.{number}", f"{top}.layers.{number}"
        places = (
            Place(norm, norm, "norm", (inner,), bias=False, parameter="scale"),
            Place(f"{layer}.in_layer", f"{layer}.linear_1", "in_layer", (inner, inner)),
            Place(f"{layer}.out_layer", f"{layer}.linear_2", "out_layer", (inner, inner)),
        )
        yield from at("guidance", f"G{number:02}", places, layer)
    path = f"{top}.out_proj"
    yield from at("guidance", "BASE", [Place(path, path, "out_proj", (flux.width, inner))])


def _double_block(flux: Flux, native: str, name: str) -> Iterator[Place]:
    """Both streams, as far as the attention they share; then both, from there on."""
    width, synth = flux.width, native.removeprefix("double_")
    for word, stream, number in STREAMS:
        letter = stream.letter
        if not flux.approximator:
            role, others = f"{word}_mod.lin", diffsynth(f"{synth}.norm1_{letter}.linear")
            yield Place(f"{native}.{role}", f"{name}.{stream.norm}.linear", role, (6 * width, width), others=others)
        attn = f"{native}.{word}_attn"
        parts = (f"{name}.{part}" for part in stream.parts)
        whole = (
            ("xlabs", f"{native}.processor.qkv_lora{number}"),
            *(("diffusers", f"{name}.{path}") for path in stream.whole),
            ("diffsynth", f"{synth}.attn.{letter}_to_qkv"),
        )
        yield from fused(f"{attn}.qkv", parts, f"{word}_attn", width, whole)
        yield from _norms(flux, attn, [f"{name}.{norm}" for norm in stream.norms], f"{word}_attn.")
    for word, stream, number in STREAMS:
        role, xlabs = f"{word}_attn.proj", Spelling("xlabs", f"{native}.processor.proj_lora{number}")
        others = (xlabs, *diffsynth(f"{synth}.attn.{stream.letter}_to_out"))
        yield Place(f"{native}.{role}", f"{name}.{stream.out}", role, (width, width), others=others)
        roles = (f"{word}_mlp.0", f"{word}_mlp.2")
        paths = (f"{native}.{roles[0]}", f"{native}.{roles[1]}")
        yield from feed_forward(paths, f"{name}.{stream.feed_forward}", roles, width, f"{synth}.ff_{stream.letter}")


def _single_block(flux: Flux, native: str, name: str) -> Iterator[Place]:
    """One row of tokens; attention and feed-forward side by side, with one way in and one way out."""
    width, linear1 = flux.width, f"{native}.linear1"
    if not flux.approximator:
        role, others = "modulation.lin", diffsynth(f"{native}.norm.linear")
        yield Place(f"{native}.{role}", f"{name}.norm.linear", role, (3 * width, width), others=others)
    # XLabs and ComfyUI after it, and diffusers where it joins projections, have names for the attention's rows alone.
    parts = (f"{name}.attn.to_{word}" for word in "qkv")
    whole = (
        ("xlabs", f"{native}.processor.qkv_lora"),
        ("xlabs", f"{linear1}_qkv"),
        ("diffusers", f"{name}.attn.to_qkv"),
    )
    mlp = Place(linear1, f"{name}.proj_mlp", "linear1.mlp", (4 * width, width), word="mlp")
    for place in (*fused(linear1, parts, "linear1", width, whole), mlp):
        share = SEVENTHS[place.word]
        synth = Spelling("diffsynth", f"{native}.to_qkv_mlp", share)
        yield replace(place, share=share, others=(*place.others, synth))
    yield from _norms(flux, native, [f"{name}.attn.norm_q", f"{name}.attn.norm_k"], "")
    others = (Spelling("xlabs", f"{native}.processor.proj_lora"), *diffsynth(f"{native}.proj_out"))
    yield Place(f"{native}.linear2", f"{name}.proj_out", "linear2", (width, 5 * width), others=others)


def _norms(flux: Flux, native: str, names: list[str], role: str) -> Iterator[Place]:
    """The norms of the heads' queries and keys."""
    for word, name in zip(("norm.query_norm", "norm.key_norm"), names, strict=True):
        yield Place(f"{native}.{word}", name, f"{role}{word}", (flux.head,), bias=False, parameter="scale")


def _final(flux: Flux) -> Iterator[Place]:
    width = flux.width
    if not flux.approximator:
        path = "final_layer.adaLN_modulation.1"
        others = diffsynth("final_norm_out.linear")
        yield Place(path, "norm_out.linear", "adaLN_modulation.1", (2 * width, width), swapped=True, others=others)
    yield Place("final_layer.linear", "proj_out", "linear", (LATENT, width), others=diffsynth("final_proj_out"))


FLUX_DEV = Architecture(
    id="flux-dev",
    title="Flux.1 dev",
    family="flux-dev",
    card_version="Flux",
    base_model_version="flux1",
    v2=False,
    modelspec_architecture="flux-1-dev/lora",
    modelspec_implementation="https://github.com/black-forest-labs/flux",
    core=Flux("flux-dev-transformer", guidance=True),
    text_encoders=(
        clip_l("te1", *hf_key_layouts("text_encoders.clip_l.transformer.", "text_encoder.")),
        t5_xxl("text_encoders.t5xxl.transformer.", "text_encoder_2."),
    ),
    namings=(
        *NAMINGS,
        *CLIP_L_NAMINGS,
        *t5_namings("text_encoder_2."),
    ),
    hosts="Forge",
    also_loaded=(*GENERIC, *(("diffusers", it) for it in ("transformer.", "lycoris_", "lora_transformer_"))),
)

FLUX_SCHNELL = replace(
    FLUX_DEV,
    id="flux-schnell",
    title="Flux.1 schnell",
    modelspec_architecture="flux-1-schnell/lora",
    core=Flux("flux-schnell-transformer"),
)
