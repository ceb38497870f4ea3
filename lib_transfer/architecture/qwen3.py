"""Qwen3, of which Anima's text encoder is the smallest, in Hugging Face's layout.

Keys: transformers' ``Qwen3ForCausalLM`` and, without the first level, ``Qwen3Model``; those of GGUF files: llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.layout import KeyLayout, Slot, Spelling, Stored, shrink
from lib_transfer.architecture.module import Kind, Position

# Path within a layer, and what GGUF files call it there.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Qwen3:
    """A language model as a text encoder.

    Attributes:
        part: ``te1``, ...
        model: ``qwen3-0.6b``.
        key_layouts: where files keep it. Styles of keys: ``hf``, ``hf bare`` (without the ``model`` level) and ``gguf``.
        width: the width of its hidden states.
        query, key: the widths of all queries, and of all keys.
        inner: the width of the feed-forward.
        head: the width of an attention head.
        layers: how many layers it has.
        tokens: the size of the vocabulary.
        beside: the width of the transformer that it goes with.
    """

    part: str
    model: str
    key_layouts: tuple[KeyLayout, ...]
    width: int
    query: int
    key: int
    inner: int
    beside: int
    head: int = 128
    layers: int = 28
    tokens: int = 151936

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Qwen3:
        """The same structure beside a transformer that is about ``width`` wide, in heads of 8."""
        own, key, inner, tokens = (
            shrink(size, width, of=self.beside) for size in (self.width, self.key, self.inner, self.tokens)
        )
        return replace(self, width=own, query=self.query // self.key * key, key=key, inner=inner, head=8, tokens=tokens)


def qwen3_06b(part: str) -> Qwen3:
    """Qwen3 0.6B as Anima has it."""
    comfy, neo, folder = "text_encoders.qwen3_06b.transformer.", "text_encoders.qwen3_06b.", "text_encoder."
    key_layouts = (
        KeyLayout(comfy, "hf"),
        KeyLayout(neo, "hf"),
        KeyLayout(folder, "hf bare"),
        KeyLayout(folder, "hf"),
        KeyLayout(comfy, "gguf"),
    )
    return Qwen3(part, "qwen3-0.6b", key_layouts, width=1024, query=2048, key=1024, inner=3072, beside=2048)


@lru_cache(maxsize=64)
def _slots(qwen3: Qwen3) -> tuple[Slot, ...]:
    return tuple(_slot(qwen3, place, depth) for depth, place in enumerate(_places(qwen3)))


@dataclass(frozen=True)
class _Place:
    """A slot: its block and role, its paths in Hugging Face's layout and in GGUF files, and its shape."""

    block: str
    role: str
    path: str
    gguf: str
    shape: tuple[int, ...]
    kind: Kind
    unit: str = ""


def _places(qwen3: Qwen3) -> Iterator[_Place]:
    table = (qwen3.tokens, qwen3.width)
    yield _Place("embeddings", "token_embedding", "embed_tokens", "token_embd", table, "embedding")
    for number in range(qwen3.layers):
        path, block = f"layers.{number}", f"layer {number}"
        for role, shape in _layer(qwen3).items():
            kind: Kind = "norm" if len(shape) == 1 else "linear"
            yield _Place(block, role, f"{path}.{role}", f"blk.{number}.{LAYER[role]}", shape, kind, path)
    yield _Place("final", "final_layer_norm", "norm", "output_norm", (qwen3.width,), "norm")


def _layer(qwen3: Qwen3) -> dict[str, tuple[int, ...]]:
    width = qwen3.width
    return {
        "input_layernorm": (width,),
        "self_attn.q_proj": (qwen3.query, width),
        "self_attn.k_proj": (qwen3.key, width),
        "self_attn.v_proj": (qwen3.key, width),
        "self_attn.q_norm": (qwen3.head,),
        "self_attn.k_norm": (qwen3.head,),
        "self_attn.o_proj": (width, qwen3.query),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (qwen3.inner, width),
        "mlp.up_proj": (qwen3.inner, width),
        "mlp.down_proj": (width, qwen3.inner),
    }


def _slot(qwen3: Qwen3, place: _Place, depth: int) -> Slot:
    path = f"model.{place.path}"
    return Slot(
        path=path,
        kind=place.kind,
        shape=place.shape,
        position=Position(qwen3.part, "layers", place.block, depth, place.role, place.unit),
        stored=(
            Stored("hf", f"{path}.weight", None),
            Stored("hf bare", f"{place.path}.weight", None),
            Stored("gguf", f"{place.gguf}.weight", None),
        ),
        spellings=(Spelling("hf", path), Spelling("hf bare", place.path)),
        # Forge Neo has names for what is in the layers alone.
        output="hf bare" if place.unit else None,
    )
