"""CLIP text encoders, in Hugging Face's and in OpenCLIP's layout.

Adapters name the places of both by Hugging Face's paths. OpenCLIP keeps the query, key and value projections of a
layer in one tensor, ``in_proj_weight``, whose thirds of rows are q, k and v in this order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.layout import KeyLayout, Slot, Spelling, Stored, shrink, third
from lib_transfer.architecture.module import Kind, Position

TOKENS = 49408
TEXT_LENGTH = 77

# Of a text encoder, both hosts load these places of a layer and nothing else (Forge maps no norms and no embeddings).
LOADED_BY_BOTH = frozenset(
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
)

# Hugging Face's role and OpenCLIP's path (within a layer, if the role is a layer's).
OPENCLIP_PATHS = {
    "token_embedding": "token_embedding",
    "position_embedding": "positional_embedding",
    "layer_norm1": "ln_1",
    "self_attn.q_proj": "attn.in_proj.q",
    "self_attn.k_proj": "attn.in_proj.k",
    "self_attn.v_proj": "attn.in_proj.v",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "final_layer_norm": "ln_final",
    "text_projection": "text_projection",
}
THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}

# diffusers up to 0.25 named the attention of the text encoder as its own attention is named.
OLD_DIFFUSERS = {"q_proj": "to_q_lora", "k_proj": "to_k_lora", "v_proj": "to_v_lora", "out_proj": "to_out_lora"}


@dataclass(frozen=True)
class Clip:
    """A text encoder.

    Attributes:
        part: ``te1``, ``te2``, ...
        model: ``clip-l``, ``clip-h`` or ``clip-g``.
        key_layouts: where files keep it. Styles of keys: ``hf`` and ``hf bare`` (without the ``text_model`` level, as in files
            from before 2023 and from transformers 5) and ``openclip``; that of the first is canonical.
        width: the width of its hidden states.
        layers: how many transformer layers it has.
        projection: whether it ends with a text projection.
        tokens: the size of the vocabulary.
        loaded: roles of the places that the hosts load.
    """

    part: str
    model: str
    key_layouts: tuple[KeyLayout, ...]
    width: int
    layers: int
    projection: bool = False
    tokens: int = TOKENS
    loaded: frozenset[str] = LOADED_BY_BOTH

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Clip:
        """The same structure with a smaller width and vocabulary; the text length stays."""
        return replace(self, width=shrink(self.width, width), tokens=shrink(self.tokens, width))


def clip_l(part: str, *key_layouts: KeyLayout) -> Clip:
    """OpenAI's CLIP ViT-L/14 text encoder: of SD1, SDXL, SD3 and Flux."""
    return Clip(part, "clip-l", key_layouts, width=768, layers=12)


def clip_g(part: str, *key_layouts: KeyLayout) -> Clip:
    """OpenCLIP's ViT-bigG/14 text encoder: of SDXL, its refiner and SD3."""
    return Clip(part, "clip-g", key_layouts, width=1280, layers=32, projection=True)


def clip_h(part: str, *key_layouts: KeyLayout) -> Clip:
    """OpenCLIP's ViT-H/14 text encoder: of SD2."""
    return Clip(part, "clip-h", key_layouts, width=1024, layers=24, projection=True)


def projecting(clip: Clip) -> Clip:
    """With the projection of its pooled text, which Forge loads of SDXL and Stable Diffusion 3."""
    return replace(clip, projection=True, loaded=LOADED_BY_BOTH | {"text_projection"})


def hf_key_layouts(*prefixes: str) -> tuple[KeyLayout, ...]:
    """KeyLayouts with Hugging Face's keys, with and without the ``text_model`` level."""
    return tuple(KeyLayout(prefix, style) for prefix in prefixes for style in ("hf", "hf bare"))


@lru_cache(maxsize=64)
def _slots(clip: Clip) -> tuple[Slot, ...]:
    return tuple(_slot(clip, place, depth) for depth, place in enumerate(_places(clip)))


@dataclass(frozen=True)
class _Place:
    """A slot in Hugging Face's words; ``layer`` is None outside the layers."""

    layer: int | None
    block: str
    role: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def path(self) -> str:
        if self.layer is not None:
            return f"encoder.layers.{self.layer}.{self.role}"
        return f"embeddings.{self.role}" if self.kind == "embedding" else self.role

    @property
    def hf_path(self) -> str:
        """The path from the file's root: the projection stands outside the ``text_model`` level."""
        return self.path if self.role == "text_projection" else f"text_model.{self.path}"

    @property
    def openclip_path(self) -> str:
        return self.above + OPENCLIP_PATHS[self.role]

    @property
    def above(self) -> str:
        return "" if self.layer is None else f"transformer.resblocks.{self.layer}."

    @property
    def bias(self) -> bool:
        return self.kind == "norm" or self.layer is not None


def _places(clip: Clip) -> Iterator[_Place]:
    width = clip.width
    yield _Place(None, "embeddings", "token_embedding", "embedding", (clip.tokens, width))
    yield _Place(None, "embeddings", "position_embedding", "embedding", (TEXT_LENGTH, width))
    for layer in range(clip.layers):
        for role, kind, shape in _layer(width):
            yield _Place(layer, f"layer {layer}", role, kind, shape)
    yield _Place(None, "final", "final_layer_norm", "norm", (width,))
    if clip.projection:
        yield _Place(None, "projection", "text_projection", "linear", (width, width))


def _layer(width: int) -> Iterator[tuple[str, Kind, tuple[int, ...]]]:
    yield "layer_norm1", "norm", (width,)
    for role in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield f"self_attn.{role}", "linear", (width, width)
    yield "layer_norm2", "norm", (width,)
    yield "mlp.fc1", "linear", (4 * width, width)
    yield "mlp.fc2", "linear", (width, 4 * width)


def _slot(clip: Clip, place: _Place, depth: int) -> Slot:
    openclip = clip.key_layouts[0].style == "openclip"
    unit = "" if place.layer is None else f"layers.{place.layer}"
    openclip_ways = tuple(_openclip(place))
    hf_ways = (_hf("hf", place.hf_path, place), _hf("hf bare", place.path, place))
    together = openclip and place.role.startswith("self_attn.")
    return Slot(
        path=place.openclip_path if openclip else place.hf_path,
        kind=place.kind,
        shape=place.shape,
        position=Position(clip.part, "layers", place.block, depth, place.role, unit),
        stored=openclip_ways + hf_ways if openclip else hf_ways + openclip_ways,
        spellings=tuple(_spellings(place)),
        output="hf" if place.role in clip.loaded else None,
        fused=f"{place.above}attn" if together else None,
    )


def _spellings(place: _Place) -> Iterator[Spelling]:
    """Hugging Face's path; since transformers 5 it comes without the ``text_model`` level too."""
    yield Spelling("hf", place.hf_path)
    if place.path != place.hf_path:
        yield Spelling("hf bare", place.path)
    attention, _, leaf = place.hf_path.rpartition(".")
    if leaf in OLD_DIFFUSERS:
        yield Spelling("hf", f"{attention}.{OLD_DIFFUSERS[leaf]}")


def _hf(style: str, path: str, place: _Place) -> Stored:
    return Stored(style, f"{path}.weight", f"{path}.bias" if place.bias else None)


def _openclip(place: _Place) -> Iterator[Stored]:
    path = place.openclip_path
    if place.role in THIRDS:
        fused = f"{place.above}attn.in_proj_"
        yield Stored("openclip", f"{fused}weight", f"{fused}bias", third(THIRDS[place.role]))
    elif place.role == "text_projection":
        # A bare parameter that multiplies from the right, so it is kept as (in, out); some files have a layer instead.
        yield Stored("openclip", path, None, transposed=True)
        yield _hf("openclip", path, place)
    elif place.role == "position_embedding":
        yield Stored("openclip", path, None)
    else:
        yield _hf("openclip", path, place)
