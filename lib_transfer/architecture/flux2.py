"""Flux.2: Klein 4B, Klein 9B and dev, and everything trained from them, base models and distilled ones alike.

Keys of the single files: Black Forest Labs' repository ``flux2``; names and rows of diffusers: its
``Flux2Transformer2DModel``. As in Flux.1, double blocks keep the image's and the text's tokens apart and single blocks have
them in one row; but one modulation serves all blocks of a kind, the feed-forwards have a gate, and no layer has a bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.flux import STREAMS
from lib_transfer.architecture.layout import KeyLayout, Share, Slot, Spelling, shrink
from lib_transfer.architecture.names import dotted
from lib_transfer.architecture.transformer import (
    FREQUENCIES,
    GENERIC,
    PART,
    WRAPPED_KEY_LAYOUTS,
    WRAPPED_NAMINGS,
    Place,
    at,
    fused,
    slots,
)

LATENT = 128  # 32 channels in patches of 2 x 2

# linear1 of a single block: q, k and v, then gate and input of the feed-forward, three times as wide each.
NINTHS = {"q": Share(((0, 1),), 9), "k": Share(((1, 2),), 9), "v": Share(((2, 3),), 9), "mlp": Share(((3, 9),), 9)}


@dataclass(frozen=True)
class Flux2:
    """The diffusion transformer of Flux.2.

    Attributes:
        model: what it is.
        double, single: how many blocks of each kind.
        width: the width of the hidden states.
        context: the width of the text encoder's hidden states, of three layers side by side.
        guidance: whether the guidance scale is an input (dev).
        head: the width of an attention head.
    """

    model: str
    double: int
    single: int
    width: int
    context: int
    guidance: bool = False
    head: int = 128
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        inputs = ("time_in", *(("guidance_in",) if self.guidance else ()))
        layers = (f"{name}.{layer}" for name in inputs for layer in ("in_layer", "out_layer"))
        modulations = (path for path, _, _ in MODULATIONS)
        ends = ("img_in", "txt_in", "final_layer.adaLN_modulation.1", "final_layer.linear")
        return frozenset((*ends, *layers, *modulations))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Flux2:
        """The same structure, about ``width`` wide, in heads of 8; latents and frequencies stay."""
        own, context = (shrink(size, width, of=self.width) for size in (self.width, self.context))
        return replace(self, width=own, head=8, context=context)


# What modulates all blocks of a kind: the path in the single file, the one in diffusers, and its rows in widths.
MODULATIONS = (
    ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear", 6),
    ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear", 6),
    ("single_stream_modulation.lin", "single_stream_modulation.linear", 3),
)


@lru_cache(maxsize=64)
def _slots(flux: Flux2) -> tuple[Slot, ...]:
    return slots(replace(place, bias=False) for place in _places(flux))


def _places(flux: Flux2) -> Iterator[Place]:
    yield from at("embedding", "BASE", _embeddings(flux))
    for number in range(flux.double):
        path = f"double_blocks.{number}"
        yield from at("double", f"D{number:02}", _double_block(flux, path, f"transformer_blocks.{number}"), path)
    for number in range(flux.single):
        path = f"single_blocks.{number}"
        yield from at("single", f"S{number:02}", _single_block(flux, path, f"single_transformer_blocks.{number}"), path)
    yield from at("final", "FINAL", _final(flux))


def _embeddings(flux: Flux2) -> Iterator[Place]:
    width = flux.width
    yield Place("img_in", "x_embedder", "img_in", (width, LATENT))
    yield Place("txt_in", "context_embedder", "txt_in", (width, flux.context))
    inputs = [("time_in", "timestep_embedder")]
    if flux.guidance:
        inputs.append(("guidance_in", "guidance_embedder"))
    for native, name in inputs:
        for layer, number, seen in (("in_layer", 1, FREQUENCIES), ("out_layer", 2, width)):
            path = f"{native}.{layer}"
            yield Place(path, f"time_guidance_embed.{name}.linear_{number}", path, (width, seen))
    for path, name, widths in MODULATIONS:
        yield Place(path, name, path, (widths * width, width))


def _double_block(flux: Flux2, native: str, name: str) -> Iterator[Place]:
    """Both streams, as far as the attention they share; then both, from there on."""
    width = flux.width
    for word, stream, _ in STREAMS:
        attn = f"{native}.{word}_attn"
        parts = (f"{name}.{part}" for part in stream.parts)
        whole = (("diffusers", f"{name}.{path}") for path in stream.whole)
        yield from fused(f"{attn}.qkv", parts, f"{word}_attn", width, whole)
        yield from _norms(flux, attn, [f"{name}.{norm}" for norm in stream.norms], f"{word}_attn.")
    for word, stream, _ in STREAMS:
        layers = (
            (f"{word}_attn.proj", stream.out, (width, width)),
            (f"{word}_mlp.0", f"{stream.feed_forward}.linear_in", (6 * width, width)),
            (f"{word}_mlp.2", f"{stream.feed_forward}.linear_out", (width, 3 * width)),
        )
        for role, path, shape in layers:
            yield Place(f"{native}.{role}", f"{name}.{path}", role, shape, others=_cut_off(f"{name}.{path}"))


def _cut_off(name: str) -> tuple[Spelling, ...]:
    """What some exports make of diffusers' name of a double block: they cut ``tran`` off."""
    return (Spelling("cut", name.removeprefix("tran")),)


def _single_block(flux: Flux2, native: str, name: str) -> Iterator[Place]:
    """One row of tokens; attention and feed-forward side by side, fused in diffusers too."""
    width, linear1 = flux.width, f"{native}.linear1"
    joined = f"{name}.attn.to_qkv_mlp_proj"
    # ComfyUI has a name for the attention's rows alone.
    alone = [("native", f"{linear1}_qkv")]
    mlp = Place(linear1, joined, "linear1.mlp", (6 * width, width), word="mlp")
    for place in (*fused(linear1, (joined,) * 3, "linear1", width, alone), mlp):
        yield replace(place, share=NINTHS[place.word], whole=True)
    yield from _norms(flux, native, [f"{name}.attn.norm_q", f"{name}.attn.norm_k"], "")
    yield Place(f"{native}.linear2", f"{name}.attn.to_out", "linear2", (width, 4 * width))


def _norms(flux: Flux2, native: str, names: list[str], role: str) -> Iterator[Place]:
    """The norms of the heads' queries and keys. Forge Neo and ComfyUI call their scale weight once a file is loaded."""
    for word, name in zip(("norm.query_norm", "norm.key_norm"), names, strict=True):
        shape = (flux.head,)
        yield Place(f"{native}.{word}", name, f"{role}{word}", shape, parameter="scale", output="native")


def _final(flux: Flux2) -> Iterator[Place]:
    path = "final_layer.adaLN_modulation.1"
    yield Place(path, "norm_out.linear", "adaLN_modulation.1", (2 * flux.width, flux.width), swapped=True)
    yield Place("final_layer.linear", "proj_out", "linear", (LATENT, flux.width))


KLEIN_4B = Architecture(
    id="flux2-klein-4b",
    title="Flux.2 Klein 4B",
    family="flux2-klein-4b",
    card_version="Unknown",
    base_model_version="flux_2_klein_4b",
    v2=False,
    modelspec_architecture="Flux.2-klein-4b/lora",
    modelspec_implementation="https://github.com/black-forest-labs/flux2",
    core=Flux2("flux2-klein-4b-transformer", double=5, single=20, width=3072, context=7680),
    text_encoders=(),
    namings=(*WRAPPED_NAMINGS, *dotted(PART, "cut", "diffusion_model.")),
    hosts="Forge Neo or ComfyUI",
    also_loaded=(
        *GENERIC,
        *(("diffusers", prefix) for prefix in ("transformer.", "", "lycoris_", "lora_transformer_")),
    ),
    # What programs list of diffusers' names are those of the blocks.
    not_loaded=(
        *(f"modulation{part}{dot}linear" for part in ("", "_img", "_txt") for dot in "._"),
        "time_guidance_embed",
    ),
)

KLEIN_9B = replace(
    KLEIN_4B,
    id="flux2-klein-9b",
    title="Flux.2 Klein 9B",
    family="flux2-klein-9b",
    base_model_version="flux_2_klein_9b",
    modelspec_architecture="Flux.2-klein-9b/lora",
    core=Flux2("flux2-klein-9b-transformer", double=8, single=24, width=4096, context=12288),
)

FLUX2_DEV = replace(
    KLEIN_4B,
    id="flux2-dev",
    title="Flux.2 dev",
    family="flux2-dev",
    base_model_version="flux_2_dev",
    modelspec_architecture="Flux.2-dev/lora",
    core=Flux2("flux2-dev-transformer", double=8, single=48, width=6144, context=15360, guidance=True),
    # Forge Neo builds the Klein models alone.
    hosts="ComfyUI",
)
