"""Qwen-Image and Qwen-Image-Edit (2509, 2511, Layered), and everything trained from them.

Keys: the single files have those of diffusers' ``QwenImageTransformer2DModel``. All blocks keep the image's and the text's
tokens apart, as the double blocks of Flux do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.flux import STREAMS
from lib_transfer.architecture.layout import KeyLayout, Slot, Spelling, shrink, third
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

LATENT = 64  # 16 channels in patches of 2 x 2


@dataclass(frozen=True)
class QwenImage:
    """The diffusion transformer of Qwen-Image.

    Attributes:
        model: what it is.
        depth: how many blocks.
        width: the width of the hidden states.
        head: the width of an attention head.
        context: the width of the text encoder's hidden states.
    """

    model: str
    depth: int = 60
    width: int = 3072
    head: int = 128
    context: int = 3584
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        time = (f"time_text_embed.timestep_embedder.linear_{number}" for number in (1, 2))
        return frozenset(("img_in", "txt_norm", "txt_in", *time, "norm_out.linear", "proj_out"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> QwenImage:
        """The same structure, about ``width`` wide, in heads of 8; latents and frequencies stay."""
        own, context = (shrink(size, width, of=self.width) for size in (self.width, self.context))
        return replace(self, width=own, head=8, context=context)


@lru_cache(maxsize=64)
def _slots(qwen: QwenImage) -> tuple[Slot, ...]:
    return slots(_places(qwen))


def _places(qwen: QwenImage) -> Iterator[Place]:
    yield from at("embedding", "BASE", _embeddings(qwen))
    for number in range(qwen.depth):
        path = f"transformer_blocks.{number}"
        yield from at("blocks", f"B{number:02}", _block(qwen, path), path)
    yield from at("final", "FINAL", _final(qwen))


def _place(path: str, role: str, shape: tuple[int, ...], others: tuple[Spelling, ...] = ()) -> Place:
    """A place that both call the same. The norms have no bias."""
    return Place(path, path, role, shape, bias=len(shape) > 1, others=others)


def _embeddings(qwen: QwenImage) -> Iterator[Place]:
    yield _place("img_in", "img_in", (qwen.width, LATENT))
    yield _place("txt_norm", "txt_norm", (qwen.context,))
    yield _place("txt_in", "txt_in", (qwen.width, qwen.context))
    for number, seen in ((1, FREQUENCIES), (2, qwen.width)):
        path = f"time_text_embed.timestep_embedder.linear_{number}"
        yield _place(path, f"time.linear_{number}", (qwen.width, seen))


def _block(qwen: QwenImage, path: str) -> Iterator[Place]:
    """Both streams, as far as the attention they share; then both, from there on."""
    width = qwen.width
    for word, stream, _ in STREAMS:
        yield _place(f"{path}.{word}_mod.1", f"{word}_mod.1", (6 * width, width))
        for number, part in enumerate(stream.parts):
            # Joined by diffusers' fuse_qkv_projections and by nunchaku.
            whole = tuple(Spelling("diffusers", f"{path}.{joined}", third(number)) for joined in stream.whole)
            yield _place(f"{path}.{part}", part, (width, width), whole)
        for norm in stream.norms:
            yield _place(f"{path}.{norm}", norm, (qwen.head,))
    for word, stream, _ in STREAMS:
        yield _place(f"{path}.{stream.out}", stream.out, (width, width))
        yield _place(f"{path}.{word}_mlp.net.0.proj", f"{word}_mlp.0", (4 * width, width))
        yield _place(f"{path}.{word}_mlp.net.2", f"{word}_mlp.2", (width, 4 * width))


def _final(qwen: QwenImage) -> Iterator[Place]:
    yield _place("norm_out.linear", "norm_out", (2 * qwen.width, qwen.width))
    yield _place("proj_out", "proj_out", (LATENT, qwen.width))


QWEN_IMAGE = Architecture(
    id="qwen-image",
    title="Qwen-Image",
    family="qwen-image",
    card_version="Unknown",
    base_model_version="qwen_image",
    v2=False,
    modelspec_architecture="Qwen-Image/lora",
    modelspec_implementation="https://github.com/QwenLM/Qwen-Image",
    core=QwenImage("qwen-image-transformer"),
    text_encoders=(),
    namings=WRAPPED_NAMINGS,
    hosts="Forge Neo or ComfyUI",
    also_loaded=(*GENERIC, *(("native", prefix) for prefix in ("transformer.", "", "lycoris_"))),
    # What tells Layered's layers apart.
    beside=("time_text_embed.addition_t_embedding.",),
)
