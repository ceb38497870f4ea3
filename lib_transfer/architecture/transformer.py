"""What the diffusion transformers have in common: places that single files keep fused and diffusers keeps apart.

A place is written in the words of the single file (``native``: the module paths of the model's own repository) and of
diffusers. Where several places share one native weight, each has a share of its rows and a word of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lib_transfer.architecture.layout import SWAPPED, KeyLayout, Share, Slot, Spelling, Stored, third
from lib_transfer.architecture.module import Kind, Position
from lib_transfer.architecture.names import Naming, dotted, text_namings

PART = "transformer"

WORDS = ("q", "k", "v", "mlp")
"""The words of the shares that a native weight may have, in the order in which they lie in it."""

FREQUENCIES = 256  # of the sinusoids that time (and Flux' guidance) come as; no width that shrinks with the model

KEY_LAYOUTS = (
    KeyLayout("model.diffusion_model.", "native"),
    KeyLayout("diffusion_model.", "native"),
    KeyLayout("", "native"),
    KeyLayout("transformer.", "diffusers"),
    KeyLayout("", "diffusers"),
    # ComfyUI, of a file with diffusers' names.
    *(KeyLayout(prefix, "diffusers") for prefix in ("model.diffusion_model.", "diffusion_model.")),
)

WRAPPED_KEY_LAYOUTS = (
    *KEY_LAYOUTS,
    # NVIDIA's own files and diffusion-pipe's; mergers' and trainers'.
    *(KeyLayout(prefix, "native") for prefix in ("net.", "model.", "transformer.")),
)
"""Where files keep the transformers of 2025 and later, which ComfyUI and Forge Neo look for behind more prefixes."""

NAMINGS = (
    # kohya's sd-scripts and LyCORIS. Forge loads lora_unet_ for all of these models.
    *(Naming(PART, "native", prefix) for prefix in ("lora_unet_", "oft_unet_", "lycoris_")),
    # ComfyUI's own names, also of parameters that are not called weight. Black Forest Labs and OneTrainer write the bare
    # path, OneTrainer in 2025 (the Open Model Initiative's format) transformer. and PEFT base_model.model. before it.
    *dotted(PART, "native", "diffusion_model.", "model.diffusion_model.", "", "transformer.", "base_model.model."),
    *dotted(PART, "omi", "transformer."),
    *dotted(PART, "parameter", "diffusion_model.", ""),
    # OneTrainer until 2026, SimpleTuner's LyCORIS; diffusers, ai-toolkit and SimpleTuner.
    *(Naming(PART, "diffusers", prefix) for prefix in ("lora_transformer_", "lycoris_", "lora_unet_")),
    *dotted(PART, "diffusers", "transformer.", "", "base_model.model.", "transformer.base_model.model."),
    *dotted(PART, "diffusers", "diffusion_model."),
    *dotted(PART, "xlabs", "", "diffusion_model."),
    *dotted(PART, "diffsynth", "", "diffusion_model.", "base_model.model."),
)

WRAPPED_NAMINGS = (
    *NAMINGS,
    # OneTrainer writes net. before the path of its original, and wrote lora_transformer_ before; the others are what tools
    # that convert such adapters expect.
    *(Naming(PART, "native", f"lora_{it}_") for it in ("transformer", "unet_net", "unet_model_diffusion_model")),
    *dotted(PART, "native", "net."),
    # SimpleTuner's comfyui format.
    *dotted(PART, "diffusers", "diffusion_model.transformer."),
)
"""How adapters name the places of the transformers of 2025 and later."""

GENERIC = (("native", "diffusion_model."), ("parameter", "diffusion_model."))
"""Style and prefix of ComfyUI's own names, which Forge and Forge Neo load of all of these models too."""

CLIP_L_NAMINGS = text_namings("te1", underscored=("lora_te1_", "lora_te_"), folder="text_encoder.", comfy="clip_l")
"""How adapters of Flux.1 and Stable Diffusion 3 name CLIP-L."""


def t5_namings(folder: str) -> tuple[Naming, ...]:
    """How adapters of Flux.1 and Stable Diffusion 3 name T5, which diffusers keeps in ``folder``."""
    # Of the numbers, kohya has 3 and OneTrainer 2; Forge loads any.
    return text_namings(
        "te3", underscored=("lora_te3_", "lora_te2_", "lora_te1_"), folder=folder, comfy="t5xxl", omi="t5"
    )


@dataclass(frozen=True)
class Place:
    """A slot before it knows its depth in the pass.

    Attributes:
        native: module path in the single file.
        diffusers: module path in diffusers.
        role: what it does in its block.
        shape: the shape of its own weight.
        bias: whether it has one.
        share: its rows of the native weight; None for all.
        word: its own word (``q``) where it is a share.
        swapped: whether diffusers keeps its halves the other way round.
        whole: whether diffusers keeps the fused weight whole too.
        parameter: what the native weight is called; empty where the path is that of a parameter.
        others: more spellings that adapters have of it.
        kind: what it computes, where the number of dimensions does not tell.
        output: the style of the spelling that the hosts load, where it is not that of the native path, or of the parameter.
    """

    native: str
    diffusers: str
    role: str
    shape: tuple[int, ...]
    bias: bool = True
    share: Share | None = None
    word: str = ""
    swapped: bool = False
    whole: bool = False
    parameter: str = "weight"
    others: tuple[Spelling, ...] = ()
    stage: str = ""
    block: str = ""
    unit: str = ""
    kind: Kind | None = None
    output: str = ""

    @property
    def order(self) -> Share | None:
        """Which rows of diffusers' weight it is, and in which order; None for all, as they are."""
        return self.share if self.whole else SWAPPED if self.swapped else None


@dataclass(frozen=True)
class Stream:
    """What diffusers calls one of the two rows of tokens that a block attends to together.

    Attributes:
        norm: the normalisation whose scale and shift the time decides.
        parts: the query, key and value projections.
        out: the output projection.
        norms: the normalisations of queries and of keys.
        feed_forward: the layers after the attention.
        whole: the query, key and value projections as one layer, after diffusers' ``fuse_qkv_projections``; nunchaku has
            another name for the text's.
        letter: what DiffSynth-Studio tells the two by.
    """

    norm: str
    parts: tuple[str, str, str]
    out: str
    norms: tuple[str, str]
    feed_forward: str
    whole: tuple[str, ...]
    letter: str


IMAGE = Stream(
    "norm1",
    ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.to_out.0",
    ("attn.norm_q", "attn.norm_k"),
    "ff",
    ("attn.to_qkv",),
    "a",
)
TEXT = Stream(
    "norm1_context",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.to_add_out",
    ("attn.norm_added_q", "attn.norm_added_k"),
    "ff_context",
    ("attn.to_added_qkv", "attn.add_qkv_proj"),
    "b",
)


def fused(
    native: str, names: Iterable[str], role: str, width: int, whole: Iterable[tuple[str, str]]
) -> Iterator[Place]:
    """The query, key and value projections of one native weight, under diffusers' names.

    ``whole`` are further names of the whole weight: the style and the path.
    """
    paths = tuple(whole)
    for number, (word, name) in enumerate(zip("qkv", names, strict=True)):
        share = third(number)
        others = tuple(Spelling(style, path, share) for style, path in paths)
        yield Place(native, name, f"{role}.{word}", (width, width), share=share, word=word, others=others)


def diffsynth(*paths: str) -> tuple[Spelling, ...]:
    """What DiffSynth-Studio calls a place."""
    return tuple(Spelling("diffsynth", path) for path in paths)


def feed_forward(native: tuple[str, str], name: str, roles: tuple[str, str], width: int, synth: str) -> Iterator[Place]:
    """Both layers of a feed-forward four times as wide as its input; ``synth`` is DiffSynth-Studio's name of it.

    SimpleTuner's newer names, ``linear_in`` and ``linear_out``, are those of later transformers in diffusers.
    """
    leaves = (("net.0.proj", "linear_in", (4 * width, width), 0), ("net.2", "linear_out", (width, 4 * width), 2))
    for path, role, (leaf, newer, shape, number) in zip(native, roles, leaves, strict=True):
        others = (Spelling("diffusers", f"{name}.{newer}"), *diffsynth(f"{synth}.{number}"))
        yield Place(path, f"{name}.{leaf}", role, shape, others=others)


def at(stage: str, block: str, places: Iterable[Place], unit: str = "") -> Iterator[Place]:
    """The places, in this stretch and block."""
    return (replace(place, stage=stage, block=block, unit=unit) for place in places)


def slots(places: Iterable[Place], part: str = PART) -> tuple[Slot, ...]:
    """The slots of a part at these places, which come in the order of the forward pass."""
    return tuple(_slot(place, part, depth) for depth, place in enumerate(places))


def _slot(place: Place, part: str, depth: int) -> Slot:
    kinds: dict[int, Kind] = {1: "norm", 2: "linear", 4: "convolution"}
    return Slot(
        path=f"{place.native}.{place.word}" if place.word else place.native,
        kind=place.kind or kinds[len(place.shape)],
        shape=place.shape,
        position=Position(part, place.stage, place.block, depth, place.role, place.unit),
        stored=tuple(_stored(place)),
        spellings=tuple(_spellings(place)),
        # Of what is not called weight, Forge knows ComfyUI's name alone.
        output=place.output or ("native" if place.parameter == "weight" else "parameter"),
    )


def _stored(place: Place) -> Iterator[Stored]:
    native_bias, bias = (f"{path}.bias" if place.bias else None for path in (place.native, place.diffusers))
    # Newer versions of ComfyUI save the scale of a norm as its weight.
    if not place.parameter:
        yield Stored("native", place.native, None)
        yield Stored("diffusers", place.diffusers, None)
        return
    for parameter in dict.fromkeys((place.parameter, "weight")):
        yield Stored("native", f"{place.native}.{parameter}", native_bias, place.share)
    yield Stored("diffusers", f"{place.diffusers}.weight", bias, place.order)


def _spellings(place: Place) -> Iterator[Spelling]:
    yield Spelling("native", place.native, place.share)
    if place.parameter != "weight":
        yield Spelling("parameter", f"{place.native}.{place.parameter}".rstrip("."), place.share)
    yield Spelling("diffusers", place.diffusers, place.order)
    if place.word:
        # The Open Model Initiative's format numbers the shares of a fused weight.
        yield Spelling("omi", f"{place.native}.{WORDS.index(place.word)}")
    yield from place.others
