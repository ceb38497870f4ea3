"""Lumina 2 and everything trained from it: Neta Lumina, NetaYume.

Keys of the single files: Alpha-VLLM's repository ``Lumina-Image-2.0`` (``NextDiT``); names and rows of diffusers: its
``Lumina2Transformer2DModel``. Two refiners, of the text and of the noisy image, come before the layers, which have both
in one row of tokens. The text's are not modulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.language_model import gemma2_2b
from lib_transfer.architecture.layout import KeyLayout, Share, Slot, Spelling, shrink
from lib_transfer.architecture.names import dotted, text_namings
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
REFINERS = 2

# Stretch of blocks, the letter of its blocks, and whether the time modulates them.
STRETCHES = (("context_refiner", "C", False), ("noise_refiner", "N", True), ("layers", "L", True))


@dataclass(frozen=True)
class Words:
    """What diffusers calls the places of one model of this kind.

    Attributes:
        attention: the attention.
        feed_forward: its first layer (the gate), its last one, and the one beside the first.
        modulation: what computes a block's scales and gates from the time.
        norms: the normalisations before and behind the attention, in a block that is modulated.
        plain: the same in one that is not.
        x, time, text, final: the ways in of the image, of the time (two layers) and of the text, and the way out (the
            modulation, the layer).
    """

    attention: str
    feed_forward: tuple[str, str, str]
    modulation: str
    norms: tuple[str, str]
    plain: tuple[str, str]
    x: str
    time: tuple[str, str]
    text: str
    final: tuple[str, str]


LUMINA = Words(
    attention="attn",
    feed_forward=("linear_1", "linear_2", "linear_3"),
    modulation="norm1.linear",
    norms=("norm1.norm", "norm2"),
    plain=("norm1", "norm2"),
    x="x_embedder",
    time=("time_caption_embed.timestep_embedder.linear_1", "time_caption_embed.timestep_embedder.linear_2"),
    text="time_caption_embed.caption_embedder",
    final=("norm_out.linear_1", "norm_out.linear_2"),
)


@dataclass(frozen=True)
class NextDiT:
    """The diffusion transformer of Lumina 2 and of Z-Image.

    Attributes:
        model: what it is.
        words: diffusers' names of it.
        depth: how many layers, beside two blocks of each refiner.
        width: the width of the hidden states.
        parts: the widths of queries, keys and values, in units: one is the width of all of them divided by the sum.
        inner: the width of the feed-forward, in thirds of the width of the hidden states.
        head: the width of an attention head.
        text: the width of the text encoder's hidden states.
        time: the widths of the embedding of the time, inside and at the end; no wider than the hidden states at the end.
        modulation: what the native file calls a block's modulation.
    """

    model: str
    words: Words = LUMINA
    depth: int = 26
    width: int = 2304
    parts: tuple[int, int, int] = (3, 1, 1)
    inner: int = 12
    head: int = 96
    text: int = 2304
    time: tuple[int, int] = (1024, 1024)
    modulation: str = "adaLN_modulation.1"
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        time = ("t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.adaLN_modulation.1")
        return frozenset(("x_embedder", "cap_embedder.1", *time, "final_layer.linear"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> NextDiT:
        """The same structure, about ``width`` wide, in three groups of heads of 8; latents and frequencies stay."""
        own = 3 * shrink(self.width // 3, width, of=self.width)
        inside = self.time[0] if self.time[0] != self.time[1] else min(own, self.time[0])
        text = shrink(self.text, width, of=self.width)
        return replace(self, width=own, head=8, text=text, time=(inside, min(own, self.time[1])))


@lru_cache(maxsize=64)
def _slots(dit: NextDiT) -> tuple[Slot, ...]:
    return slots(_places(dit))


def _places(dit: NextDiT) -> Iterator[Place]:
    yield from at("embedding", "BASE", _embeddings(dit))
    for stage, letter, modulated in STRETCHES:
        for number in range(dit.depth if stage == "layers" else REFINERS):
            path = f"{stage}.{number}"
            yield from at(stage, f"{letter}{number:02}", _block(dit, path, modulated=modulated), path)
    yield from at("final", "FINAL", _final(dit))


def _embeddings(dit: NextDiT) -> Iterator[Place]:
    inside, out = dit.time
    yield Place("x_embedder", dit.words.x, "x_embedder", (dit.width, LATENT))
    for layer, name, shape in zip((0, 2), dit.words.time, ((inside, FREQUENCIES), (out, inside)), strict=True):
        yield Place(f"t_embedder.mlp.{layer}", name, f"t_embedder.mlp.{layer}", shape)
    text = dit.words.text
    yield Place("cap_embedder.0", f"{text}.0", "cap_embedder.0", (dit.text,), bias=False)
    yield Place("cap_embedder.1", f"{text}.1", "cap_embedder.1", (dit.width, dit.text))


def _block(dit: NextDiT, path: str, *, modulated: bool) -> Iterator[Place]:
    words, width = dit.words, dit.width
    before, behind = words.norms if modulated else words.plain
    if modulated:
        shape = (4 * width, dit.time[1])
        yield Place(f"{path}.{dit.modulation}", f"{path}.{words.modulation}", "adaLN_modulation", shape)
    attention = _attention(dit, path)
    norms = (("attention_norm1", before), ("attention_norm2", behind), ("ffn_norm1", "ffn_norm1"))
    first, second, third = (_norm(path, native, name, width) for native, name in norms)
    yield first
    yield from attention
    yield from (second, third)
    inner = dit.inner * width // 3
    for native, name in zip(("w1", "w2", "w3"), words.feed_forward, strict=True):
        role, shape = f"feed_forward.{native}", (width, inner) if native == "w2" else (inner, width)
        yield Place(f"{path}.{role}", f"{path}.feed_forward.{name}", role, shape, bias=False)
    yield _norm(path, "ffn_norm2", "ffn_norm2", width)


def _norm(path: str, native: str, name: str, width: int) -> Place:
    return Place(f"{path}.{native}", f"{path}.{name}", native, (width,), bias=False)


def _attention(dit: NextDiT, path: str) -> Iterator[Place]:
    """Queries, keys and values lie one below the other in the native weight; keys may be fewer than queries."""
    native, name = f"{path}.attention", f"{path}.{dit.words.attention}"
    whole, at_row = sum(dit.parts), 0
    for word, units in zip("qkv", dit.parts, strict=True):
        share = Share(((at_row, at_row + units),), whole)
        shape = (dit.width * units // dit.parts[0], dit.width)
        role = f"attention.{word}"
        # Anime-Z takes the underscore for a dot.
        others = (Spelling("dotted", f"{native}.to.{word}"),)
        yield Place(
            f"{native}.qkv", f"{name}.to_{word}", role, shape, bias=False, share=share, word=word, others=others
        )
        at_row += units
    for word in "qk":
        role = f"attention.{word}_norm"
        yield Place(f"{native}.{word}_norm", f"{name}.norm_{word}", role, (dit.head,), bias=False)
    yield Place(f"{native}.out", f"{name}.to_out.0", "attention.out", (dit.width, dit.width), bias=False)


def _final(dit: NextDiT) -> Iterator[Place]:
    modulation, linear = dit.words.final
    yield Place("final_layer.adaLN_modulation.1", modulation, "adaLN_modulation", (dit.width, dit.time[1]))
    yield Place("final_layer.linear", linear, "linear", (LATENT, dit.width))


LUMINA_2 = Architecture(
    id="lumina-2",
    title="Lumina 2",
    family="lumina-2",
    card_version="Unknown",
    base_model_version="lumina2",
    v2=False,
    modelspec_architecture="lumina-2/lora",
    modelspec_implementation="https://github.com/Alpha-VLLM/Lumina-Image-2.0",
    core=NextDiT("lumina-2-transformer"),
    text_encoders=(gemma2_2b(),),
    namings=(
        *WRAPPED_NAMINGS,
        *text_namings("te1", underscored=("lora_te_", "lora_te1_"), folder="text_encoder.", comfy="gemma2_2b"),
        *dotted("te1", "hf", "text_encoders.gemma2_2b.", "text_encoders.transformer."),
    ),
    hosts="Forge Neo or ComfyUI",
    also_loaded=GENERIC,
    # A norm that older files hold and no program reads.
    beside=("norm_final.",),
)
