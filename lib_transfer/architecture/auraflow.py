"""AuraFlow and Pony V7, which was trained from it.

Keys of the single files: ``fal/AuraFlow``; names and rows of diffusers: its ``AuraFlowTransformer2DModel``. Double layers keep
the text's and the image's tokens apart, with weights 1 and 2 of their attention; single layers have them in one row, under 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.layout import KeyLayout, Slot, shrink
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

LATENT = 16  # 4 channels in patches of 2 x 2

# The rows of tokens of a double layer, the text's and the image's: its letter, the number of its weights of the attention,
# and in diffusers the parts of the attention, the feed-forward and the modulation.
ROWS = (
    ("C", 1, ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"), "ff_context", "norm1_context"),
    ("X", 2, ("to_q", "to_k", "to_v", "to_out.0"), "ff", "norm1"),
)
SINGLE = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = (("c_fc1", "linear_1"), ("c_fc2", "linear_2"), ("c_proj", "out_projection"))


@dataclass(frozen=True)
class AuraFlow:
    """The diffusion transformer of AuraFlow.

    Attributes:
        model: what it is.
        double, single: how many layers of each kind.
        width: the width of the hidden states.
        inner: the width of the feed-forward.
        context: the width of the text encoder's hidden states.
    """

    model: str
    double: int = 4
    single: int = 32
    width: int = 3072
    inner: int = 8192
    context: int = 2048
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        time = ("t_embedder.mlp.0", "t_embedder.mlp.2", "modF.1")
        return frozenset(("init_x_linear", "cond_seq_linear", *time, "final_linear"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> AuraFlow:
        """The same structure, about ``width`` wide, in heads of 8; latents and frequencies stay."""
        own, context = (shrink(size, width, of=self.width) for size in (self.width, self.context))
        return replace(self, width=own, inner=inner_width(own), context=context)


def inner_width(width: int) -> int:
    """The width of the feed-forward: two thirds of four times the width, rounded up to a multiple of 256."""
    return 256 * -(-(4 * width * 2 // 3) // 256)


@lru_cache(maxsize=64)
def _slots(aura: AuraFlow) -> tuple[Slot, ...]:
    return slots(_places(aura))


def _places(aura: AuraFlow) -> Iterator[Place]:
    width = aura.width
    first = (
        Place("init_x_linear", "pos_embed.proj", "init_x_linear", (width, LATENT)),
        Place("cond_seq_linear", "context_embedder", "cond_seq_linear", (width, aura.context), bias=False),
        Place("t_embedder.mlp.0", "time_step_proj.linear_1", "t_embedder.mlp.0", (width, FREQUENCIES)),
        Place("t_embedder.mlp.2", "time_step_proj.linear_2", "t_embedder.mlp.2", (width, width)),
    )
    yield from at("embedding", "BASE", first)
    for number in range(aura.double):
        native, name = f"double_layers.{number}", f"joint_transformer_blocks.{number}"
        yield from at("double", f"D{number:02}", _double_layer(aura, native, name), native)
    for number in range(aura.single):
        native, name = f"single_layers.{number}", f"single_transformer_blocks.{number}"
        yield from at("single", f"S{number:02}", _single_layer(aura, native, name), native)
    shape = (2 * width, width)
    last = (
        Place("modF.1", "norm_out.linear", "modF.1", shape, bias=False, swapped=True),
        Place("final_linear", "proj_out", "final_linear", (LATENT, width), bias=False),
    )
    yield from at("final", "FINAL", last)


def _double_layer(aura: AuraFlow, native: str, name: str) -> Iterator[Place]:
    for letter, number, parts, feed_forward, norm in ROWS:
        yield _modulation(aura, native, f"mod{letter}", f"{name}.{norm}")
        yield from _attention(aura, native, number, [f"{name}.attn.{part}" for part in parts])
        yield from _feed_forward(aura, native, f"mlp{letter}", f"{name}.{feed_forward}")


def _single_layer(aura: AuraFlow, native: str, name: str) -> Iterator[Place]:
    yield _modulation(aura, native, "modCX", f"{name}.norm1")
    yield from _attention(aura, native, 1, [f"{name}.attn.{part}" for part in SINGLE])
    yield from _feed_forward(aura, native, "mlp", f"{name}.ff")


def _modulation(aura: AuraFlow, native: str, role: str, name: str) -> Place:
    shape = (6 * aura.width, aura.width)
    return Place(f"{native}.{role}.1", f"{name}.linear", f"{role}.1", shape, bias=False)


def _attention(aura: AuraFlow, native: str, number: int, names: list[str]) -> Iterator[Place]:
    for word, name in zip("qkvo", names, strict=True):
        role = f"attn.w{number}{word}"
        yield Place(f"{native}.{role}", name, role, (aura.width, aura.width), bias=False)


def _feed_forward(aura: AuraFlow, native: str, role: str, name: str) -> Iterator[Place]:
    for word, theirs in FEED_FORWARD:
        shape = (aura.width, aura.inner) if word == "c_proj" else (aura.inner, aura.width)
        yield Place(f"{native}.{role}.{word}", f"{name}.{theirs}", f"{role}.{word}", shape, bias=False)


AURAFLOW = Architecture(
    id="auraflow",
    title="AuraFlow",
    family="auraflow",
    card_version="Unknown",
    base_model_version="auraflow",
    v2=False,
    modelspec_architecture="auraflow/lora",
    modelspec_implementation="https://huggingface.co/fal/AuraFlow",
    core=AuraFlow("auraflow-transformer"),
    text_encoders=(),
    namings=WRAPPED_NAMINGS,
    hosts="ComfyUI",
    also_loaded=GENERIC,
)
