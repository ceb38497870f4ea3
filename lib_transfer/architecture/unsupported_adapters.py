"""Models that people have LoRAs for and that are not supported, so that a file is called what it is.

Names of modules and sizes: the models' own repositories, diffusers' classes of them and the trainers that write for them
(musubi-tuner, OneTrainer, ai-toolkit, diffusion-pipe, DiffSynth-Studio).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lib_transfer.spelling import usual

Shapes = Mapping[str, tuple[int, int]]
"""``(out, in)`` of the update of a module by name; (0, 0) where it is not known."""


@dataclass(frozen=True)
class Family:
    """A model, or several that the names of an adapter do not tell apart.

    Attributes:
        title: its name for people.
        names: matches the beginning of a module's name that no supported architecture has; None where it has no such.
        metadata: matches what trainers write in ``ss_base_model_version`` and ``modelspec.architecture``, in lower case.
        shapes: says whether modules whose names others share have the shapes or the numbers that only this model has.
        dotted: is found in a name with dots, where only these tell it from another.
    """

    title: str
    names: re.Pattern[str] | None
    metadata: re.Pattern[str] | None = None
    shapes: Callable[[Shapes], bool] | None = None
    dotted: re.Pattern[str] | None = None


def _blocks(shapes: Shapes) -> tuple[set[int], set[int]]:
    """The numbers and the widths of blocks with two streams in diffusers' names; none where there are single ones too."""
    found = [(re.match(r"transformer_blocks_(\d+)_attn_(?:to|add)_", name), shape[1]) for name, shape in shapes.items()]
    if any(name.startswith("single_transformer_blocks_") for name in shapes):
        return set(), set()
    return {int(it[1]) for it, _ in found if it is not None}, {width for it, width in found if it is not None}


def _of_hunyuan_video(shapes: Shapes) -> bool:
    """20 double and 40 single blocks, where Flux.1 has 19 and 38 and Flux.2 has at most 8 and 48."""
    single = (
        "single_blocks_38_",
        "single_blocks_39_",
        "single_transformer_blocks_38_",
        "single_transformer_blocks_39_",
    )
    narrow = any(re.fullmatch(r"single_blocks_\d+_linear1", name) and o == 7 * i > 0 for name, (o, i) in shapes.items())
    return any(name.startswith("double_blocks_19_") for name in shapes) or (
        any(name.startswith(single) for name in shapes)
        and (narrow or any(name.startswith(("double_blocks_8_", "transformer_blocks_8_")) for name in shapes))
    )


def _of_either(shapes: Shapes) -> bool:
    """20 blocks of Flux.1's width, which HunyuanVideo has, and Qwen-Image three times."""
    numbers, widths = _blocks(shapes)
    return bool(numbers) and max(numbers) == 19 and 3072 in widths


def _of_omnigen2(shapes: Shapes) -> bool:
    """The names of Lumina 2 in diffusers, and wider."""
    return any(
        re.fullmatch(r"(?:layers|(?:noise|context)_refiner)_\d+_attn_to_[qkv]", name) and into == 2520
        for name, (_, into) in shapes.items()
    )


# Of PixArt and the smaller Sana, the larger Sana, both of CogVideoX, and LTX-Video 13B.
_WIDTHS = (1152, 2240, 1920, 3072, 4096)


def _of_pixart_and_others(shapes: Shapes) -> bool:
    """The names of Anima in diffusers; but of another width, or with a text that is as wide as the picture."""
    found = [(re.match(r"transformer_blocks_\d+_attn([12])_to_([qkv])\Z", it), shape) for it, shape in shapes.items()]
    attentions = [(it[1], it[2], shape) for it, shape in found if it is not None]
    return any(number == "1" for number, _, _ in attentions) and any(
        into in _WIDTHS if number == "1" else word != "q" and out == into > 0
        for number, word, (out, into) in attentions
    )


def _family(
    title: str,
    names: str | None,
    metadata: str | None = None,
    shapes: Callable[[Shapes], bool] | None = None,
    dotted: str | None = None,
) -> Family:
    named, spoken, written = (None if it is None else re.compile(it) for it in (names, metadata, dotted))
    return Family(title, named, spoken, shapes, written)


STRAY = 0.1
"""The share of modules with names of a model that may stand in an adapter for another one."""

# From the most telling to the vaguest: the first that matches is named.
FAMILIES: tuple[Family, ...] = (
    _family(
        "HunyuanVideo or HunyuanImage",
        r"txt_in_individual_token_refiner|double_blocks_\d+_(?:img|txt)_(?:mlp_fc[12]|mod_linear)"
        r"|single_blocks_\d+_modulation_linear|context_embedder_token_refiner",
        r"hunyuan[ ._-]?(?:video|image)|^hunyuan$",
        _of_hunyuan_video,
        r"\.(?:img|txt)_attn_(?:qkv|proj)\b",
    ),
    _family("HunyuanVideo or Qwen-Image", None, None, _of_either),
    _family("Chroma Radiance", r"nerf_(?:blocks|final_layer|image_embedder)|img_in_patch", r"radiance"),
    _family("Hunyuan-DiT", r"blocks_\d+_attn[12]_(?:Wqkv|q_proj|kv_proj)", r"hunyuan[ ._-]?dit"),
    _family(
        "Qwen-Image 2.1",
        r"transformer_blocks_\d+_(?:img|txt)_mlp_(?:gate|proj)",
        r"qwen[ ._-]?image[ ._-]?2[ ._-]1",
    ),
    _family("Lens", r"transformer_blocks_\d+_(?:img|txt)_mlp_w\d"),
    _family("HiDream", r"(?:double|single)_stream_blocks_\d+_", r"hidream"),
    _family("Wan VACE", r"vace_blocks_\d+_"),
    _family("Zeta-Chroma", r"dec_net_", r"zeta[ ._-]?chroma"),
    _family("Ming-Image", None, r"\bming[ ._-]?image"),
    _family("OmniGen2", r"ref_image_(?:patch_embedder|refiner)_", r"omnigen", _of_omnigen2),
    _family(
        "Stable Cascade",
        r"lora_prior_|prior_unet_|down_blocks_\d+_\d+_(?:attention|channelwise|depthwise)",
        r"cascade|wuerstchen",
    ),
    _family("Stable Video Diffusion", r".*temporal_transformer_blocks_\d|.*time_stack_\d", r"stable-video|\bsvd\b"),
    _family("PixArt", r"blocks_\d+_(?:attn_qkv|cross_attn_(?:q|kv)_linear)\Z", r"pixart"),
    _family("Mochi", r"blocks_\d+_attn_(?:qkv|proj)_[xy]\Z|transformer_blocks_\d+_attn1_(?:add_|to_add_)", r"mochi"),
    _family("LTX-Video", r"transformer_blocks_\d+_(?:audio_|video_to_audio_|audio_to_video_)", r"\bltx"),
    _family("PixArt or Sana or LTX-Video or CogVideoX", None, r"sana|cogvideo", _of_pixart_and_others),
    _family("Kandinsky", r"(?:visual|text)_transformer_blocks_\d+_", r"kandinsky"),
)

# What trainers put before a model's own paths, as often as they put it.
_PREFIXES = re.compile(
    r"(?:lora_unet_|lora_transformer_|lycoris_|oft_unet_|(?:base_model\.model|model\.diffusion_model|diffusion_model"
    r"|transformer|unet|net|dit|model)\.)*"
)
_OF_TEXT = re.compile(r"lora_te|text_encoder|clip_|t5|te\d?_")


@lru_cache(maxsize=1 << 16)
def _in_block_0(path: str) -> str:
    return re.sub(r"_\d+(?=_)", "_0", path)


@lru_cache(maxsize=1 << 16)
def bare(name: str) -> str:
    """The path of a module without the writer's prefix and with underscores for its dots."""
    return _PREFIXES.sub("", usual(name), count=1).replace(".", "_")


def family_by_names(names: Collection[str], shapes: Shapes) -> Family | None:
    """The model that most of an adapter's modules are of, by names and shapes that no supported architecture has.

    Args:
        names: the adapter's module names; those of text encoders tell nothing.
        shapes: ``(out, in)`` of the update of each name, where known.
    """
    known = {bare(name): shapes.get(name, (0, 0)) for name in names if not _OF_TEXT.match(name)}
    # The same layer of many blocks is looked at once.
    layers = Counter(map(_in_block_0, known))
    for family in FAMILIES:
        if family.names is not None:
            matching = sum(count for layer, count in layers.items() if family.names.match(layer))
            if matching > STRAY * len(known):
                return family
        if family.dotted is not None and any(map(family.dotted.search, names)):
            return family
        if family.shapes is not None and family.shapes(known):
            return family
    return None
