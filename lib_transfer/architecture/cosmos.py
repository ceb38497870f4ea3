"""Cosmos-Predict2 2B (text to image), the model that Anima was made from.

Keys of the single files: NVIDIA's repository ``cosmos-predict2`` (``MiniTrainDIT``); names of diffusers: its
``CosmosTransformer3DModel``. No layer has a bias, and nothing is fused. The blocks' modulations go through a narrow layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.layout import KeyLayout, Slot, Spelling, shrink
from lib_transfer.architecture.names import dotted
from lib_transfer.architecture.transformer import GENERIC, PART, WRAPPED_KEY_LAYOUTS, WRAPPED_NAMINGS, Place, at, slots

CHANNELS, PATCH = 16, 2

# The three steps of a block, each behind a modulated normalisation, and diffusers' number of it.
STEPS = (("self_attn", 1), ("cross_attn", 2), ("mlp", 3))
PROJECTIONS = (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("output_proj", "to_out.0"))
NORMS = (("q_norm", "norm_q"), ("k_norm", "norm_k"))


@dataclass(frozen=True)
class Cosmos:
    """The diffusion transformer of Cosmos-Predict2 and of Anima.

    Attributes:
        model: what it is.
        depth: how many blocks.
        width: the width of the hidden states.
        head: the width of an attention head.
        context: the width of the text's hidden states.
        narrow: the width of the layer that the modulations go through.
    """

    model: str
    depth: int = 28
    width: int = 2048
    head: int = 128
    context: int = 1024
    narrow: int = 256
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        time = ("t_embedder.1.linear_1", "t_embedder.1.linear_2")
        last = (f"final_layer.{path}" for path in ("adaln_modulation.1", "adaln_modulation.2", "linear"))
        return frozenset(("x_embedder.proj.1", *time, *last))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> Cosmos:
        """The same structure, about ``width`` wide, in heads of 16, as time and both directions need; latents stay."""
        half, context, narrow = (
            shrink(it, width, of=self.width) for it in (self.width // 2, self.context, self.narrow)
        )
        return replace(self, width=2 * half, head=16, context=context, narrow=narrow)


@lru_cache(maxsize=64)
def _slots(cosmos: Cosmos) -> tuple[Slot, ...]:
    return slots(replace(place, bias=False) for place in _places(cosmos))


def _places(cosmos: Cosmos) -> Iterator[Place]:
    yield from at("embedding", "BASE", _embeddings(cosmos))
    for number in range(cosmos.depth):
        path = f"blocks.{number}"
        yield from at("blocks", f"B{number:02}", _block(cosmos, path, f"transformer_blocks.{number}"), path)
    yield from at("final", "FINAL", _final(cosmos))


def _embeddings(cosmos: Cosmos) -> Iterator[Place]:
    width = cosmos.width
    # Beside the latent it sees which part of the picture is padding.
    yield Place("x_embedder.proj.1", "patch_embed.proj", "x_embedder", (width, (CHANNELS + 1) * PATCH * PATCH))
    for layer, out in (("linear_1", width), ("linear_2", 3 * width)):
        path = f"t_embedder.1.{layer}"
        # kohya's conversion to ComfyUI's names takes the underscores of these for dots.
        others = (Spelling("converted", f"t.embedder.1.{layer}"),)
        yield Place(path, f"time_embed.t_embedder.{layer}", path, (out, width), others=others)
    yield Place("t_embedding_norm", "time_embed.norm", "t_embedding_norm", (width,))


def _block(cosmos: Cosmos, native: str, name: str) -> Iterator[Place]:
    width = cosmos.width
    for step, number in STEPS:
        for layer, shape in ((1, (cosmos.narrow, width)), (2, (3 * width, cosmos.narrow))):
            role = f"adaln_modulation_{step}.{layer}"
            others = () if step == "mlp" else (Spelling("converted", f"{native}.adaln_modulation.{step}.{layer}"),)
            yield Place(f"{native}.{role}", f"{name}.norm{number}.linear_{layer}", role, shape, others=others)
        if step != "mlp":
            seen = width if step == "self_attn" else cosmos.context
            yield from _attention(cosmos, native, name, step, f"attn{number}", seen)
    yield Place(f"{native}.mlp.layer1", f"{name}.ff.net.0.proj", "mlp.layer1", (4 * width, width))
    yield Place(f"{native}.mlp.layer2", f"{name}.ff.net.2", "mlp.layer2", (width, 4 * width))


def _attention(cosmos: Cosmos, native: str, name: str, step: str, attn: str, seen: int) -> Iterator[Place]:
    """An attention of the image to what is ``seen`` wide."""
    for word, theirs in PROJECTIONS:
        shape = (cosmos.width, seen if word in ("k_proj", "v_proj") else cosmos.width)
        yield Place(f"{native}.{step}.{word}", f"{name}.{attn}.{theirs}", f"{step}.{word}", shape)
    for word, theirs in NORMS:
        yield Place(f"{native}.{step}.{word}", f"{name}.{attn}.{theirs}", f"{step}.{word}", (cosmos.head,))


def _final(cosmos: Cosmos) -> Iterator[Place]:
    width, top = cosmos.width, "final_layer"
    for layer, shape in ((1, (cosmos.narrow, width)), (2, (2 * width, cosmos.narrow))):
        role = f"adaln_modulation.{layer}"
        yield Place(f"{top}.{role}", f"norm_out.linear_{layer}", role, shape)
    yield Place(f"{top}.linear", "proj_out", "linear", (CHANNELS * PATCH * PATCH, width))


COSMOS_NAMINGS = (*WRAPPED_NAMINGS, *dotted(PART, "converted", "diffusion_model."))

COSMOS_PREDICT2 = Architecture(
    id="cosmos-predict2-2b",
    title="Cosmos-Predict2 2B",
    family="anima",
    card_version="Unknown",
    base_model_version="cosmos_predict2",
    v2=False,
    modelspec_architecture="cosmos-predict2-2b/lora",
    modelspec_implementation="https://github.com/nvidia-cosmos/cosmos-predict2",
    core=Cosmos("cosmos-predict2-2b-transformer"),
    text_encoders=(),
    namings=COSMOS_NAMINGS,
    hosts="ComfyUI",
    also_loaded=GENERIC,
)
