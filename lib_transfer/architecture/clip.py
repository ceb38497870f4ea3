"""CLIP text encoders, in Hugging Face's and in OpenCLIP's layout.

Adapters name the places of both by Hugging Face's paths. OpenCLIP keeps the query, key and value projections of a
layer in one tensor, ``in_proj_weight``, whose thirds of rows are q, k and v in this order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.layout import Slot, shrink
from lib_transfer.architecture.module import Kind, Position

TOKENS = 49408
TEXT_LENGTH = 77

# Of a text encoder, both hosts load these places of a layer and nothing else (Forge maps no norms and no embeddings).
LOADED_BY_BOTH = {
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
}

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


@dataclass(frozen=True)
class Clip:
    """A text encoder.

    Attributes:
        part: ``te1``, ``te2``, ...
        prefixes: what files put before its keys.
        width: of its hidden states.
        layers: how many transformer layers it has.
        openclip: whether keys are OpenCLIP's (fused q, k, v) instead of Hugging Face's.
    """

    part: str
    prefixes: tuple[str, ...]
    width: int
    layers: int
    openclip: bool = False
    tokens: int = TOKENS

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Clip:
        """The same structure with a smaller width and vocabulary; the text length stays."""
        return replace(self, width=shrink(self.width, width), tokens=shrink(self.tokens, width))


@lru_cache(maxsize=32)
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
    if clip.openclip:
        yield _Place(None, "final", "text_projection", "linear", (width, width))


def _layer(width: int) -> Iterator[tuple[str, Kind, tuple[int, ...]]]:
    yield "layer_norm1", "norm", (width,)
    for role in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield f"self_attn.{role}", "linear", (width, width)
    yield "layer_norm2", "norm", (width,)
    yield "mlp.fc1", "linear", (4 * width, width)
    yield "mlp.fc2", "linear", (width, 4 * width)


def _slot(clip: Clip, place: _Place, depth: int) -> Slot:
    slot = Slot(
        path=place.path,
        kind=place.kind,
        shape=place.shape,
        weight=f"{place.path}.weight",
        bias=f"{place.path}.bias" if place.bias else None,
        position=Position(clip.part, "layers", place.block, depth, place.role),
        spellings=_spellings(place.path),
        output="hf" if place.role in LOADED_BY_BOTH else None,
    )
    return _as_openclip(slot, place) if clip.openclip else slot


def _spellings(path: str) -> tuple[tuple[str, str], ...]:
    """Hugging Face's path; since transformers 5 it comes without the ``text_model`` level too."""
    return ("hf", f"text_model.{path}"), ("hf without text_model", path)


def _as_openclip(slot: Slot, place: _Place) -> Slot:
    """The same slot with OpenCLIP's path and keys."""
    above = "" if place.layer is None else f"transformer.resblocks.{place.layer}."
    path = above + OPENCLIP_PATHS[place.role]
    slot = replace(slot, path=path, weight=f"{path}.weight", bias=f"{path}.bias" if slot.bias else None)
    if place.role in THIRDS:
        rows, columns = slot.shape
        slot = replace(
            slot,
            shape=(3 * rows, columns),
            weight=f"{above}attn.in_proj_weight",
            bias=f"{above}attn.in_proj_bias",
            third=THIRDS[place.role],
        )
    if place.role.startswith("self_attn."):
        slot = replace(slot, fused=f"{above}attn")
    if place.role == "position_embedding":
        slot = replace(slot, weight=path)
    if place.role == "text_projection":
        # Both are bare parameters; this one multiplies from the right, so it is stored (in, out).
        slot = replace(slot, weight=path, spellings=(("hf", path),), transposed=True)
    return slot
