"""Language models as text encoders, in Hugging Face's layout: Qwen3 0.6B of Anima, Gemma 2 2B of Lumina 2.

Keys: transformers' ``Qwen3ForCausalLM`` and ``Gemma2ForCausalLM`` and, without the first level, the models within; those of
GGUF files: llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.layout import KeyLayout, Slot, Spelling, Stored, shrink
from lib_transfer.architecture.module import Kind, Position

Leaves = tuple[tuple[str, str], ...]
"""Paths within a layer, in the order of the forward pass, and what GGUF files call them there."""

_ATTENTION = (("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"))
_FEED_FORWARD = (("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"))

QWEN3: Leaves = (
    ("input_layernorm", "attn_norm"),
    *_ATTENTION,
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    *_FEED_FORWARD,
)
GEMMA2: Leaves = (
    ("input_layernorm", "attn_norm"),
    *_ATTENTION,
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    *_FEED_FORWARD,
    ("post_feedforward_layernorm", "post_ffw_norm"),
)


@dataclass(frozen=True)
class LanguageModel:
    """A language model as a text encoder.

    Attributes:
        model: ``qwen3-0.6b``, ``gemma2-2b``.
        key_layouts: where files keep it. Styles of keys: ``hf``, ``hf bare`` (without the ``model`` level) and ``gguf``.
        leaves: what is in a layer.
        width: the width of its hidden states.
        query, key: the widths of all queries, and of all keys.
        inner: the width of the feed-forward.
        head: the width of an attention head.
        layers: how many layers it has.
        tokens: the size of the vocabulary.
        beside: the width of the transformer that it goes with.
        loaded: whether the hosts load a LoRA on its layers.
        part: ``te1``.
    """

    model: str
    key_layouts: tuple[KeyLayout, ...]
    leaves: Leaves
    width: int
    query: int
    key: int
    inner: int
    head: int
    layers: int
    tokens: int
    beside: int
    loaded: bool
    part: str = "te1"

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> LanguageModel:
        """The same structure beside a transformer that is about ``width`` wide, in heads of 8."""
        own, key, inner, tokens = (
            shrink(size, width, of=self.beside) for size in (self.width, self.key, self.inner, self.tokens)
        )
        return replace(self, width=own, query=self.query // self.key * key, key=key, inner=inner, head=8, tokens=tokens)


def qwen3_06b() -> LanguageModel:
    """Qwen3 0.6B as Anima has it."""
    return LanguageModel(
        "qwen3-0.6b", _key_layouts("qwen3_06b"), QWEN3,
        width=1024, query=2048, key=1024, inner=3072, head=128, layers=28, tokens=151936, beside=2048, loaded=True,
    )  # fmt: skip


def gemma2_2b() -> LanguageModel:
    """Gemma 2 2B as Lumina 2 has it."""
    return LanguageModel(
        "gemma2-2b", _key_layouts("gemma2_2b"), GEMMA2,
        width=2304, query=2048, key=1024, inner=9216, head=256, layers=26, tokens=256000, beside=2304, loaded=False,
    )  # fmt: skip


def _key_layouts(comfy: str) -> tuple[KeyLayout, ...]:
    """ComfyUI's, with its name of the model, Forge Neo's, and those of folders of diffusers."""
    return (
        KeyLayout(f"text_encoders.{comfy}.transformer.", "hf"),
        KeyLayout(f"text_encoders.{comfy}.", "hf"),
        KeyLayout("text_encoder.", "hf bare"),
        KeyLayout("text_encoder.", "hf"),
        KeyLayout(f"text_encoders.{comfy}.transformer.", "gguf"),
    )


@lru_cache(maxsize=64)
def _slots(model: LanguageModel) -> tuple[Slot, ...]:
    return tuple(_slot(model, place, depth) for depth, place in enumerate(_places(model)))


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


def _places(model: LanguageModel) -> Iterator[_Place]:
    table = (model.tokens, model.width)
    yield _Place("embeddings", "token_embedding", "embed_tokens", "token_embd", table, "embedding")
    shapes = _shapes(model)
    for number in range(model.layers):
        path, block = f"layers.{number}", f"layer {number}"
        for role, gguf in model.leaves:
            shape = shapes.get(role, (model.width,))
            kind: Kind = "norm" if len(shape) == 1 else "linear"
            yield _Place(block, role, f"{path}.{role}", f"blk.{number}.{gguf}", shape, kind, path)
    yield _Place("final", "final_layer_norm", "norm", "output_norm", (model.width,), "norm")


def _shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
    """Of all but the norms of the hidden states."""
    width = model.width
    return {
        "self_attn.q_proj": (model.query, width),
        "self_attn.k_proj": (model.key, width),
        "self_attn.v_proj": (model.key, width),
        "self_attn.q_norm": (model.head,),
        "self_attn.k_norm": (model.head,),
        "self_attn.o_proj": (width, model.query),
        "mlp.gate_proj": (model.inner, width),
        "mlp.up_proj": (model.inner, width),
        "mlp.down_proj": (width, model.inner),
    }


def _slot(model: LanguageModel, place: _Place, depth: int) -> Slot:
    path = f"model.{place.path}"
    return Slot(
        path=path,
        kind=place.kind,
        shape=place.shape,
        position=Position(model.part, "layers", place.block, depth, place.role, place.unit),
        stored=(
            Stored("hf", f"{path}.weight", None),
            Stored("hf bare", f"{place.path}.weight", None),
            Stored("gguf", f"{place.gguf}.weight", None),
        ),
        spellings=(Spelling("hf", path), Spelling("hf bare", place.path)),
        # Forge Neo has names for what is in the layers alone.
        output="hf bare" if place.unit and model.loaded else None,
    )
