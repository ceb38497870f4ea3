"""The UNet of Stable Diffusion 1, 2 and XL and of their pruned relatives, from a description of its depths.

The layout is that of the ``openaimodel.py`` UNet in Stability AI's repositories, whose key names the single-file
checkpoints carry (``ldm``); the other style is that of diffusers' ``UNet2DConditionModel``, both of its keys and of
adapters' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.layout import KeyLayout, Share, Slot, Spelling, Stored, shrink, third
from lib_transfer.architecture.module import Kind, Position
from lib_transfer.architecture.names import Naming, dotted

LATENT_CHANNELS = 4

# Places whose diffusers name A1111 does not map; their ldm name is loaded by both hosts.
UNMAPPED_BY_A1111 = {"conv_norm_out", "add_embedding.linear_1", "add_embedding.linear_2"}

KEY_LAYOUTS = (
    KeyLayout("model.diffusion_model.", "ldm"),
    KeyLayout("diffusion_model.", "ldm"),
    KeyLayout("", "ldm"),
    KeyLayout("unet.", "diffusers"),
    KeyLayout("", "diffusers"),
)


def unet_namings(first: str) -> tuple[Naming, ...]:
    """How adapters name the places of a UNet.

    Args:
        first: the style that kohya's sd-scripts writes for this architecture, ``ldm`` or ``diffusers``; the other one is
            found in files too.
    """
    styles = (first, "ldm" if first == "diffusers" else "diffusers")
    joined = ("lora_unet_", "oft_unet_", "lycoris_")
    return (
        *(Naming("unet", style, prefix) for prefix in joined for style in styles),
        *dotted("unet", "diffusers", "unet.", "", "base_model.model.", "unet.base_model.model.", "diffusion_model."),
        # OneTrainer in 2025 wrote the checkpoint's paths behind ``unet.`` (the Open Model Initiative's format).
        *dotted("unet", "ldm", "diffusion_model.", "model.diffusion_model.", "", "unet."),
    )


@dataclass(frozen=True)
class UNet:
    """A UNet by its depths and widths.

    Attributes:
        input_depths: per resolution, per residual block: how many transformer blocks its attention has (0: none).
        middle_depth: the same for the middle; None when the middle is one residual block only.
        middle: whether there is a middle at all.
        output_depths: as ``input_depths``, from the lowest resolution up.
        multipliers: per resolution, the width in units of ``width``.
        context: widths of the text encoders whose states attention sees side by side.
        vector: widths that make up the vector conditioning (``label_emb``); empty when there is none.
        linear_projection: whether ``proj_in`` and ``proj_out`` are linear layers instead of 1x1 convolutions.
        output: the style of the names to write, ``ldm`` or ``diffusers``.
        model: what it is.
        width: channels of the first block (``model_channels``).
    """

    input_depths: tuple[tuple[int, ...], ...]
    middle_depth: int | None
    output_depths: tuple[tuple[int, ...], ...]
    multipliers: tuple[int, ...]
    context: tuple[int, ...]
    vector: tuple[int, ...]
    linear_projection: bool
    output: str
    model: str
    middle: bool = True
    width: int = 320
    part: str = "unet"
    key_layouts: tuple[KeyLayout, ...] = KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The way in, the time embedding, the way out, and the vector embedding where there is one."""
        vector = ("label_emb.0.0", "label_emb.0.2") if self.vector else ()
        return frozenset(("time_embed.0", "time_embed.2", *vector, "input_blocks.0.0", "out.0", "out.2"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> UNet:
        """The same structure, ``width`` channels wide in its first block."""
        return replace(
            self,
            width=width,
            context=tuple(shrink(size, width) for size in self.context),
            vector=tuple(shrink(size, width) for size in self.vector),
        )


@dataclass(frozen=True)
class _Place:
    """A slot before it knows its depth in the pass."""

    ldm: str
    diffusers: str
    role: str
    shape: tuple[int, ...]
    bias: bool = True
    stage: str = ""
    block: str = ""
    unit: str = ""


@lru_cache(maxsize=64)
def _slots(unet: UNet) -> tuple[Slot, ...]:
    return tuple(_slot(unet, place, depth) for depth, place in enumerate(_places(unet)))


def _slot(unet: UNet, place: _Place, depth: int) -> Slot:
    kinds: dict[int, Kind] = {1: "norm", 2: "linear", 4: "convolution"}
    paths = (("ldm", place.ldm), ("diffusers", place.diffusers))
    return Slot(
        path=place.ldm,
        kind=kinds[len(place.shape)],
        shape=place.shape,
        position=Position(unet.part, place.stage, place.block, depth, place.role, place.unit),
        stored=tuple(Stored(style, f"{path}.weight", f"{path}.bias" if place.bias else None) for style, path in paths),
        spellings=(*(Spelling(style, path) for style, path in paths), *_old_diffusers(place), *_joined(place)),
        output="ldm" if place.diffusers in UNMAPPED_BY_A1111 else unet.output,
    )


def _old_diffusers(place: _Place) -> Iterator[Spelling]:
    """Up to 0.16, diffusers kept a LoRA in the attention's processor, and called the output projection ``to_out``."""
    attention, to, leaf = place.diffusers.partition(".to_")
    if to:
        for processor in (".processor", ""):
            yield Spelling("diffusers", f"{attention}{processor}.to_{leaf.removesuffix('.0')}_lora")


# diffusers' ``fuse_qkv_projections`` makes one layer of these: its name, and which rows of it each of them is.
JOINED = {
    "attn1.to_q": ("attn1.to_qkv", third(0)),
    "attn1.to_k": ("attn1.to_qkv", third(1)),
    "attn1.to_v": ("attn1.to_qkv", third(2)),
    "attn2.to_k": ("attn2.to_kv", Share(((0, 1),), 2)),
    "attn2.to_v": ("attn2.to_kv", Share(((1, 2),), 2)),
}


def _joined(place: _Place) -> Iterator[Spelling]:
    if place.role in JOINED:
        name, share = JOINED[place.role]
        yield Spelling("diffusers", f"{place.diffusers.removesuffix(place.role)}{name}", share)


def _places(unet: UNet) -> Iterator[_Place]:
    """All places. Blocks are called as in block-weight tools, which count embeddings as BASE and ``out`` as the last."""
    width, out = unet.width, unet.width * unet.multipliers[0]
    yield from _at("embedding", "BASE", _embeddings(unet))
    conv_in = _Place("input_blocks.0.0", "conv_in", "conv_in", (width, LATENT_CHANNELS, 3, 3))
    yield from _at("input 1", "IN00", [conv_in])
    skips: list[int] = [width]
    yield from _input_blocks(unet, skips)
    yield from _at("middle", "MID", _middle(unet, skips[-1]))
    yield from _output_blocks(unet, skips)
    norm_out = _Place("out.0", "conv_norm_out", "conv_norm_out", (out,))
    conv_out = _Place("out.2", "conv_out", "conv_out", (LATENT_CHANNELS, out, 3, 3))
    last = sum(map(len, unet.output_depths)) - 1
    yield from _at(f"output {len(unet.output_depths)}", f"OUT{last:02}", [norm_out, conv_out])


def _at(stage: str, block: str, places: Iterable[_Place]) -> Iterator[_Place]:
    return (replace(place, stage=stage, block=block) for place in places)


def _embeddings(unet: UNet) -> Iterator[_Place]:
    inner = 4 * unet.width
    yield _Place("time_embed.0", "time_embedding.linear_1", "time_embedding.linear_1", (inner, unet.width))
    yield _Place("time_embed.2", "time_embedding.linear_2", "time_embedding.linear_2", (inner, inner))
    if unet.vector:
        yield _Place("label_emb.0.0", "add_embedding.linear_1", "add_embedding.linear_1", (inner, sum(unet.vector)))
        yield _Place("label_emb.0.2", "add_embedding.linear_2", "add_embedding.linear_2", (inner, inner))


def _input_blocks(unet: UNet, skips: list[int]) -> Iterator[_Place]:
    """The way down; ``skips`` grows by the width that each block hands to its counterpart on the way up."""
    index = 1
    channels = skips[-1]
    for level, depths in enumerate(unet.input_depths):
        wide = unet.width * unet.multipliers[level]
        for number, depth in enumerate(depths):
            ldm, names = f"input_blocks.{index}", f"down_blocks.{level}"
            block = [
                *_residual(unet, f"{ldm}.0", f"{names}.resnets.{number}", channels, wide),
                *_attention(unet, f"{ldm}.1", f"{names}.attentions.{number}", wide, depth),
            ]
            yield from _at(f"input {level + 1}", f"IN{index:02}", block)
            channels = wide
            skips.append(channels)
            index += 1
        if level + 1 < len(unet.input_depths):
            path, name = f"input_blocks.{index}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            down = _Place(path, name, "downsample", (channels, channels, 3, 3))
            yield from _at(f"input {level + 1}", f"IN{index:02}", [down])
            skips.append(channels)
            index += 1


def _middle(unet: UNet, channels: int) -> Iterator[_Place]:
    if not unet.middle:
        return
    yield from _residual(unet, "middle_block.0", "mid_block.resnets.0", channels, channels)
    if unet.middle_depth is not None:
        yield from _attention(unet, "middle_block.1", "mid_block.attentions.0", channels, unet.middle_depth)
        yield from _residual(unet, "middle_block.2", "mid_block.resnets.1", channels, channels)


def _output_blocks(unet: UNet, skips: list[int]) -> Iterator[_Place]:
    """The way up; each block takes the last of ``skips``."""
    index = 0
    channels = skips[-1]
    last = len(unet.output_depths) - 1
    for level, depths in enumerate(unet.output_depths):
        wide = unet.width * unet.multipliers[last - level]
        for number, depth in enumerate(depths):
            ldm, names = f"output_blocks.{index}", f"up_blocks.{level}"
            block = [
                *_residual(unet, f"{ldm}.0", f"{names}.resnets.{number}", channels + skips.pop(), wide),
                *_attention(unet, f"{ldm}.1", f"{names}.attentions.{number}", wide, depth),
            ]
            if level < last and number == len(depths) - 1:
                path = f"{ldm}.{2 if depth else 1}.conv"
                block.append(_Place(path, f"{names}.upsamplers.0.conv", "upsample", (wide, wide, 3, 3)))
            yield from _at(f"output {level + 1}", f"OUT{index:02}", block)
            channels = wide
            index += 1


def _residual(unet: UNet, ldm: str, name: str, channels: int, wide: int) -> Iterator[_Place]:
    """A residual block. Its norms are called after their convolutions: ``norm1`` is the transformer block's word."""
    return (replace(place, unit=ldm) for place in _residual_places(unet, ldm, name, channels, wide))


def _residual_places(unet: UNet, ldm: str, name: str, channels: int, wide: int) -> Iterator[_Place]:
    yield _Place(f"{ldm}.in_layers.0", f"{name}.norm1", "conv1.norm", (channels,))
    yield _Place(f"{ldm}.in_layers.2", f"{name}.conv1", "conv1", (wide, channels, 3, 3))
    yield _Place(f"{ldm}.emb_layers.1", f"{name}.time_emb_proj", "time", (wide, 4 * unet.width))
    yield _Place(f"{ldm}.out_layers.0", f"{name}.norm2", "conv2.norm", (wide,))
    yield _Place(f"{ldm}.out_layers.3", f"{name}.conv2", "conv2", (wide, wide, 3, 3))
    if channels != wide:
        yield _Place(f"{ldm}.skip_connection", f"{name}.conv_shortcut", "skip", (wide, channels, 1, 1))


def _attention(unet: UNet, ldm: str, name: str, wide: int, depth: int) -> Iterator[_Place]:
    """A spatial transformer of ``depth`` blocks; inside it the two spellings are the same."""
    if depth == 0:
        return
    projection = (wide, wide) if unet.linear_projection else (wide, wide, 1, 1)
    yield _Place(f"{ldm}.norm", f"{name}.norm", "norm", (wide,), unit=ldm)
    yield _Place(f"{ldm}.proj_in", f"{name}.proj_in", "proj_in", projection, unit=ldm)
    for number in range(depth):
        block = f"transformer_blocks.{number}"
        for role, shape, bias in _transformer_block(wide, sum(unet.context)):
            path = f"{block}.{role}"
            yield _Place(f"{ldm}.{path}", f"{name}.{path}", role, shape, bias, unit=f"{ldm}.{block}")
    yield _Place(f"{ldm}.proj_out", f"{name}.proj_out", "proj_out", projection, unit=ldm)


def _transformer_block(wide: int, context: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Role, shape and whether there is a bias: self-attention, attention to the text, gated feed-forward."""
    for number, seen in ((1, wide), (2, context)):
        yield f"norm{number}", (wide,), True
        yield f"attn{number}.to_q", (wide, wide), False
        yield f"attn{number}.to_k", (wide, seen), False
        yield f"attn{number}.to_v", (wide, seen), False
        yield f"attn{number}.to_out.0", (wide, wide), True
    yield "norm3", (wide,), True
    yield "ff.net.0.proj", (8 * wide, wide), True
    yield "ff.net.2", (wide, 4 * wide), True
