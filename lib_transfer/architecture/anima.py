"""Anima: Cosmos-Predict2 2B trained on drawings, with Qwen3 0.6B and an adapter in place of its text encoder.

Keys: ``circlestone-labs/Anima``; those of the adapter are diffusers' ``AnimaTextConditioner`` too. Its first versions have 28
blocks, and relatives that were made deeper have 40 and 52. ComfyUI keeps the adapter within the diffusion model, Forge Neo
with the text encoder, whose weight scales a LoRA on it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture, Depths
from lib_transfer.architecture.cosmos import COSMOS_NAMINGS, Cosmos
from lib_transfer.architecture.expansion import Expansion
from lib_transfer.architecture.language_model import qwen3_06b
from lib_transfer.architecture.layout import KeyLayout, Slot, shrink
from lib_transfer.architecture.names import Naming, dotted, text_namings
from lib_transfer.architecture.transformer import GENERIC, Place, at, slots

ADAPTER = "llm_adapter."

_BEFORE = ("model.diffusion_model.", "diffusion_model.", "net.", "model.", "transformer.", "")


@dataclass(frozen=True)
class LLMAdapter:
    """What turns the hidden states of the language model into the text that the transformer sees.

    Attributes:
        width: the width of the hidden states.
        head: the width of an attention head.
        depth: how many blocks.
        tokens: the size of the vocabulary that asks for them: T5's.
    """

    width: int = 1024
    head: int = 64
    depth: int = 6
    tokens: int = 32128
    part: str = "te2"
    model: str = "anima-llm-adapter"
    key_layouts: tuple[KeyLayout, ...] = (
        *(KeyLayout(prefix + ADAPTER, "native") for prefix in _BEFORE),
        KeyLayout("text_conditioner.", "diffusers"),
    )

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> LLMAdapter:
        """The same structure beside a transformer that is about ``width`` wide, in heads of 8."""
        own, tokens = (shrink(size, width, of=2 * self.width) for size in (self.width, self.tokens))
        return replace(self, width=own, head=8, tokens=tokens)


@lru_cache(maxsize=64)
def _slots(adapter: LLMAdapter) -> tuple[Slot, ...]:
    return slots(_places(adapter), adapter.part)


def _places(adapter: LLMAdapter) -> Iterator[Place]:
    width = adapter.width
    table = Place("embed", "embed", "embed", (adapter.tokens, width), bias=False, kind="embedding")
    yield from at("layers", "embeddings", [table])
    for number in range(adapter.depth):
        path = f"blocks.{number}"
        yield from at("layers", f"layer {number}", _block(adapter, path), path)
    last = (
        Place("out_proj", "out_proj", "out_proj", (width, width)),
        Place("norm", "norm", "norm", (width,), bias=False),
    )
    yield from at("layers", "final", last)


def _block(adapter: LLMAdapter, path: str) -> Iterator[Place]:
    width = adapter.width
    shapes: dict[str, tuple[int, ...]] = {}
    for attn in ("self_attn", "cross_attn"):
        shapes[f"norm_{attn}"] = (width,)
        shapes |= {f"{attn}.{letter}_proj": (width, width) for letter in "qkvo"}
        shapes |= {f"{attn}.{letter}_norm": (adapter.head,) for letter in "qk"}
    shapes |= {"norm_mlp": (width,), "mlp.0": (4 * width, width), "mlp.2": (width, 4 * width)}
    for role, shape in shapes.items():
        yield Place(f"{path}.{role}", f"{path}.{role}", role, shape, bias=role.startswith("mlp"))


_PART = LLMAdapter().part

ADAPTER_NAMINGS = (
    # What kohya writes is loaded everywhere. Forge Neo's own names are those behind lora_te_ and its encoder's name.
    *(Naming(_PART, "native", f"{it}_llm_adapter_") for it in ("lora_unet", "lycoris", "lora_transformer", "lora_te")),
    *(
        naming
        for before in ("diffusion_model.", "net.", "", "transformer.", "model.diffusion_model.", "base_model.model.")
        for naming in dotted(_PART, "native", before + ADAPTER)
    ),
    *dotted(_PART, "native", f"text_encoders.qwen3_06b.{ADAPTER}"),
    *dotted(_PART, "native", "text_conditioner.", "text_conditioner.base_model.model."),
)


def _core(depth: int) -> Cosmos:
    return Cosmos("anima-transformer", depth)


_TO_40 = tuple(
    zip((2, 5, 8, 11, 14, 17, 21, 24, 27, 30, 33, 36), (1, 3, 5, 7, 9, 11, 14, 16, 18, 20, 22, 24), strict=True)
)
"""``expand_manifest.json`` of Gazingstars123/Anima-2.9B: the number of an inserted block, and of the one it was copied from."""

_TO_52 = tuple(
    zip((3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47), (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35), strict=True)
)
"""Likewise from 40 blocks to Anima 3.8B, as Forge Neo and ComfyUI-Lora-Manager have it."""

_DEPTHS = Depths(
    _core,
    (("native", "blocks."), ("diffusers", "transformer_blocks.")),
    known=(28, 40, 52),
    expansions=(Expansion(28, 40, _TO_40), Expansion(40, 52, _TO_52)),
    copied=("self_attn.q_proj", "mlp.layer1"),
    zeroed=("self_attn.output_proj", "mlp.layer2"),
    entry="modelspec.anima_source_blocks",
)

ANIMA = Architecture(
    id="anima",
    title="Anima",
    family="anima",
    card_version="Unknown",
    base_model_version="anima",
    v2=False,
    modelspec_architecture="anima-preview/lora",
    modelspec_implementation="https://huggingface.co/circlestone-labs/Anima",
    core=_core(28),
    depths=_DEPTHS,
    text_encoders=(qwen3_06b(), LLMAdapter()),
    namings=(
        *COSMOS_NAMINGS,
        *ADAPTER_NAMINGS,
        *text_namings("te1", underscored=("lora_te_", "lora_te1_"), folder="text_encoder.", comfy="qwen3_06b"),
        # Forge Neo's, and ComfyUI's where there is one text encoder.
        *dotted("te1", "hf", "text_encoders.qwen3_06b.", "text_encoders.transformer."),
    ),
    hosts="Forge Neo or ComfyUI",
    also_loaded=(*GENERIC, ("native", f"diffusion_model.{ADAPTER}")),
    # A branch of Anima 3.8B that reads a second language model, which files without it do as well.
    beside=(ADAPTER, "anima_v2_connector."),
)
