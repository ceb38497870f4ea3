"""T5 v1.1 XXL, of which Stable Diffusion 3, Flux and Chroma use the encoder, in Hugging Face's layout.

Keys: transformers' ``T5EncoderModel``; those of GGUF files: llama.cpp's for T5, as city96's files have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.layout import KeyLayout, Slot, Spelling, Stored, shrink
from lib_transfer.architecture.module import Kind, Position

BUCKETS = 32  # of relative positions

# Role -> path within a layer, and what GGUF files call it there.
LAYER = {
    "attention.norm": ("layer.0.layer_norm", "attn_norm"),
    "SelfAttention.q": ("layer.0.SelfAttention.q", "attn_q"),
    "SelfAttention.k": ("layer.0.SelfAttention.k", "attn_k"),
    "SelfAttention.v": ("layer.0.SelfAttention.v", "attn_v"),
    "SelfAttention.relative_attention_bias": ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
    "SelfAttention.o": ("layer.0.SelfAttention.o", "attn_o"),
    "feed_forward.norm": ("layer.1.layer_norm", "ffn_norm"),
    "DenseReluDense.wi_0": ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
    "DenseReluDense.wi_1": ("layer.1.DenseReluDense.wi_1", "ffn_up"),
    "DenseReluDense.wo": ("layer.1.DenseReluDense.wo", "ffn_down"),
}


@dataclass(frozen=True)
class T5:
    """A text encoder.

    Attributes:
        key_layouts: where files keep it. Styles of keys: ``hf`` and ``gguf``.
        width: the width of its hidden states.
        inner: the width of the feed-forward.
        head: the width of an attention head.
        layers: how many layers it has.
        tokens: the size of the vocabulary.
    """

    key_layouts: tuple[KeyLayout, ...]
    width: int = 4096
    inner: int = 10240
    head: int = 64
    layers: int = 24
    tokens: int = 32128
    part: str = "te3"
    model: str = "t5-xxl"

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> T5:
        """The same structure, about as wide as a transformer that is ``width`` wide, in heads of 8."""
        narrow = shrunk_width(width)
        inner, tokens = (shrink(size, narrow, of=self.width) for size in (self.inner, self.tokens))
        return replace(self, width=narrow, inner=inner, head=8, tokens=tokens)


def t5_xxl(*prefixes: str) -> T5:
    """The encoder of T5 v1.1 XXL, kept behind these prefixes; everywhere it is called the third text encoder."""
    return T5(tuple(KeyLayout(prefix, style) for style in ("hf", "gguf") for prefix in prefixes))


def shrunk_width(width: int) -> int:
    """How wide its hidden states are beside a transformer that is ``width`` wide instead of Flux' 3072."""
    return shrink(4096, width, of=3072)


@lru_cache(maxsize=64)
def _slots(t5: T5) -> tuple[Slot, ...]:
    return tuple(_slot(t5, place, depth) for depth, place in enumerate(_places(t5)))


@dataclass(frozen=True)
class _Place:
    """A slot: its block and role, its paths in both styles, and its shape."""

    block: str
    role: str
    paths: tuple[str, ...]
    gguf: str
    kind: Kind
    shape: tuple[int, ...]
    unit: str = ""


def _places(t5: T5) -> Iterator[_Place]:
    # Transformers ties the encoder's own table to the shared one; files hold either, or both.
    tables = ("shared", "encoder.embed_tokens")
    yield _Place("embeddings", "token_embedding", tables, "token_embd", "embedding", (t5.tokens, t5.width))
    for layer in range(t5.layers):
        for role, kind, shape in _layer(t5, layer):
            path, gguf = LAYER[role]
            paths, block = (f"encoder.block.{layer}.{path}",), f"layer {layer}"
            yield _Place(block, role, paths, f"enc.blk.{layer}.{gguf}", kind, shape, f"layers.{layer}")
    yield _Place("final", "final_layer_norm", ("encoder.final_layer_norm",), "enc.output_norm", "norm", (t5.width,))


def _layer(t5: T5, layer: int) -> Iterator[tuple[str, Kind, tuple[int, ...]]]:
    """The first layer's positions serve all layers. Attention is as wide as the hidden states."""
    width = t5.width
    yield "attention.norm", "norm", (width,)
    for part in "qkv":
        yield f"SelfAttention.{part}", "linear", (width, width)
    if layer == 0:
        yield "SelfAttention.relative_attention_bias", "embedding", (BUCKETS, width // t5.head)
    yield "SelfAttention.o", "linear", (width, width)
    yield "feed_forward.norm", "norm", (width,)
    yield "DenseReluDense.wi_0", "linear", (t5.inner, width)
    yield "DenseReluDense.wi_1", "linear", (t5.inner, width)
    yield "DenseReluDense.wo", "linear", (width, t5.inner)


def _slot(t5: T5, place: _Place, depth: int) -> Slot:
    return Slot(
        path=place.paths[0],
        kind=place.kind,
        shape=place.shape,
        position=Position(t5.part, "layers", place.block, depth, place.role, place.unit),
        stored=(
            *(Stored("hf", f"{path}.weight", None) for path in place.paths),
            Stored("gguf", f"{place.gguf}.weight", None),
        ),
        spellings=(Spelling("hf", place.paths[0]),),
        output="hf",
    )
