"""An architecture as data, and what follows from it: a checkpoint's modules, and the list of all its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import NamedTuple

from lib_transfer.architecture.expansion import Expansion
from lib_transfer.architecture.layout import Core, KeyLayout, Layout, Share, Slot, Stored
from lib_transfer.architecture.module import Binding, Module, Name, Rows
from lib_transfer.architecture.names import NamesOfPart, NameTable, all_names, output_name
from lib_transfer.errors import UnsupportedError

Tensors = Mapping[str, tuple[int, ...]]
"""Tensor key -> shape, as read from a file's header."""


@dataclass(frozen=True)
class Depths:
    """That a diffusion model may have any number of blocks, as relatives have that were made deeper.

    Attributes:
        core: the diffusion model with so many blocks.
        blocks: what stands before the number of a block in a key, by the style of keys.
        known: the numbers of blocks of those that are published; names of adapters are known for as many as the last.
        expansions: how the published ones were made from each other.
        copied: the jobs within a block whose weights an inserted block has from the one that it was copied from.
        zeroed: jobs whose weights were zeroed in it, before it was trained.
        entry: the metadata entry of an adapter that says for how many blocks it is.
    """

    core: Callable[[int], Core]
    blocks: tuple[tuple[str, str], ...]
    known: tuple[int, ...]
    expansions: tuple[Expansion, ...]
    copied: tuple[str, ...]
    zeroed: tuple[str, ...]
    entry: str


@dataclass(frozen=True)
class Architecture:
    """A family of checkpoints that share one structure.

    Attributes:
        id: short and stable: ``sd1``, ``sdxl``.
        title: its name for people.
        family: the id of the architecture that it and its relatives stem from (its own where it stems from none).
            Modules of relatives correspond, by name or by alignment; those of others do not.
        card_version: the ``sd version`` of an A1111 user-metadata card.
        base_model_version: ``ss_base_model_version`` of an adapter for it (kohya's metadata).
        v2: ``ss_v2`` of an adapter for it: whether it is Stable Diffusion 2.
        modelspec_architecture: ``modelspec.architecture`` of a LoRA for it (Stability AI's ModelSpec).
        modelspec_implementation: ``modelspec.implementation`` of a LoRA for it.
        core: the diffusion model; it alone decides what a checkpoint is.
        text_encoders: the text encoders, in the order in which the model uses them; a file may lack them.
        hosts: the programs that a LoRA for it is written for, as a sentence names them: what one of them does not load is not
            written.
        beside: what the keys within the diffusion model begin with that are no modules of it.
        rows: places of the diffusion model, and how many rows their weights have whatever its width, where the keys alone do not
            tell it from another model.
        depths: how many blocks the diffusion model may have; None where the core has all of them.
        namings: how adapters name its modules. Of several that start from one spelling, the first is written.
        idle: parts and blocks whose output the model does not read, so that a change of them has no effect.
        also_loaded: what namings that every one of ``hosts`` loads beside the names that are written have as style and prefix.
        not_loaded: what is in the names of these namings that some of ``hosts`` do not load all the same.
    """

    id: str
    title: str
    family: str
    card_version: str
    base_model_version: str
    v2: bool
    modelspec_architecture: str
    modelspec_implementation: str
    core: Core
    text_encoders: tuple[Layout, ...]
    namings: tuple[NamesOfPart, ...]
    idle: frozenset[tuple[str, str]] = frozenset()
    hosts: str = "A1111 or Forge"
    beside: tuple[str, ...] = ()
    rows: tuple[tuple[str, int], ...] = ()
    depths: Depths | None = None
    also_loaded: tuple[tuple[str, str], ...] = ()
    not_loaded: tuple[str, ...] = ()

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """All parts, in forward order: the text encoders, then the diffusion model."""
        return (*self.text_encoders, self.core)

    @property
    def metadata(self) -> dict[str, str]:
        """What a LoRA for it must carry so that A1111 and Forge both show it under this architecture."""
        return {
            "ss_base_model_version": self.base_model_version,
            "ss_v2": str(self.v2),
            "modelspec.architecture": self.modelspec_architecture,
            "modelspec.implementation": self.modelspec_implementation,
        }


def with_depth(architecture: Architecture, depth: int) -> Architecture:
    """The architecture with so many blocks; itself where it has that number, or one that is not free."""
    if architecture.depths is None:
        return architecture
    core = architecture.depths.core(depth)
    return architecture if core == architecture.core else replace(architecture, core=core)


def deepest(architecture: Architecture) -> Architecture:
    """The deepest published relative of the architecture; itself where the number of blocks is not free."""
    return architecture if architecture.depths is None else with_depth(architecture, architecture.depths.known[-1])


def as_deep_as(architecture: Architecture, tensors: Tensors) -> Architecture:
    """The architecture with as many blocks as a file has: one more than the highest number in its keys."""
    key_layout = None if architecture.depths is None else key_layout_in(architecture.core, tensors)
    if architecture.depths is None or key_layout is None:
        return architecture
    before = key_layout.prefix + dict(architecture.depths.blocks)[key_layout.style]
    block = re.compile(re.escape(before) + r"(\d+)\.")
    numbers = {int(found[1]) for key in tensors if (found := block.match(key))}
    # A number far beyond any that is known is a damaged name, not a block.
    plausible = range(4 * architecture.depths.known[-1])
    return with_depth(architecture, max((number for number in numbers if number in plausible), default=-1) + 1)


def key_layout_in(layout: Layout, tensors: Tensors) -> KeyLayout | None:
    """Where this file keeps a part: the key_layout that most of its keys are at; None if it does not hold the part."""
    found = {key_layout: sum(key in tensors for key in _keys(layout, key_layout)) for key_layout in layout.key_layouts}
    key_layout = max(found, key=lambda key_layout: found[key_layout])
    return key_layout if found[key_layout] else None


@lru_cache(maxsize=512)
def _keys(layout: Layout, key_layout: KeyLayout) -> tuple[str, ...]:
    return tuple(
        key_layout.prefix + stored.weight for slot in layout.slots() for stored in slot.stored_as(key_layout.style)
    )


def modules(architecture: Architecture, tensors: Tensors) -> tuple[Module, ...]:
    """Every module of a checkpoint that an adapter can change, in forward order (text encoders first).

    Args:
        architecture: what :func:`lib_transfer.architecture.recognise` says the checkpoint is.
        tensors: the checkpoint's keys and shapes. Parts and modules that it lacks are left out.

    Raises:
        UnsupportedError: a tensor has not as many dimensions as its place demands, or a fused weight cannot be cut in
            its parts; the message names it.
    """
    found: list[Module] = []
    for layout in architecture.layouts:
        key_layout = key_layout_in(layout, tensors)
        if key_layout is not None:
            found.extend(_modules_of(layout, key_layout, architecture.namings, tensors))
    return tuple(found)


class _Named(NamedTuple):
    """A slot with its names."""

    slot: Slot
    names: dict[str, Share | None]
    output: str | None


def _modules_of(
    layout: Layout, key_layout: KeyLayout, namings: tuple[NamesOfPart, ...], tensors: Tensors
) -> Iterator[Module]:
    canonical = layout.key_layouts[0].prefix
    for slot, names, output in _named_slots(layout, namings):
        stored = next(
            (way for way in slot.stored_as(key_layout.style) if key_layout.prefix + way.weight in tensors), None
        )
        if stored is None:
            continue
        weight, bias = key_layout.prefix + stored.weight, key_layout.prefix + (stored.bias or "")
        shape, rows = _cut(slot, stored, weight, tensors[weight])
        named = {text: _name(text, share, shape[0]) for text, share in names.items()}
        yield Module(
            name=canonical + slot.path,
            weight=weight,
            bias=bias if stored.bias is not None and bias in tensors else None,
            kind=slot.kind,
            shape=shape,
            rows=rows,
            fused=None if slot.fused is None else canonical + slot.fused,
            position=slot.position,
            names=tuple(named.values()),
            output=None if output is None else named[output],
            transposed=stored.transposed,
        )


@lru_cache(maxsize=512)
def _named_slots(layout: Layout, namings: tuple[NamesOfPart, ...]) -> tuple[_Named, ...]:
    own = tuple(naming for naming in namings if naming.part == layout.part)
    return tuple(_Named(slot, all_names(slot, own), output_name(slot, own)) for slot in layout.slots())


def _name(text: str, share: Share | None, rows: int) -> Name:
    """A name of a module of so many rows."""
    return Name(text, None if share is None else share.rows(rows // share.units))


def _cut(slot: Slot, stored: Stored, key: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Rows | None]:
    """Shape and rows of the slot's share of a tensor of this shape."""
    if len(shape) != len(slot.shape):
        raise UnsupportedError(
            f"The tensor {key} has the shape {shape}, but {len(slot.shape)} dimensions belong there ({slot.kind}).",
            hint="Quantised checkpoints must be converted to fp16 first.",
        )
    if stored.share is None:
        return shape[::-1] if stored.transposed else shape, None
    unit, rest = divmod(shape[0], stored.share.of)
    if rest:
        raise UnsupportedError(
            f"The tensor {key} has the shape {shape}, whose rows are not {stored.share.of} equal parts."
        )
    return (stored.share.units * unit, *shape[1:]), stored.share.rows(unit)


def reference(
    architecture: Architecture, *, width: int | None = None, style: str | None = None
) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of a checkpoint that adapters can touch (no VAE), in forward order.

    Args:
        architecture: which checkpoint.
        width: channels of the diffusion model's first block; None for the real, full size. With a small width the keys
            and the structure stay and every width shrinks with it, for tiny models in tests.
        style: the style of the diffusion model's keys (``diffusers``), for a folder that diffusers wrote; the canonical single
            file when not given. Text encoders are then kept as such a folder keeps them.
    """
    tensors: dict[str, tuple[int, ...]] = {}
    for layout in architecture.layouts:
        sized = layout if width is None else layout.scaled(width)
        key_layout = sized.key_layouts[0] if style is None else _key_layout_beside(sized, style)
        for slot in sized.slots():
            for stored in slot.stored_as(key_layout.style)[:1]:
                shape = _whole(slot, stored)
                tensors[key_layout.prefix + stored.weight] = shape
                if stored.bias is not None:
                    tensors[key_layout.prefix + stored.bias] = shape[:1]
    return tensors


def _key_layout_beside(layout: Layout, style: str) -> KeyLayout:
    """Where a folder with a diffusion model of this style keeps the part."""
    subfolders = ("unet.", "transformer.", "text_encoder.", "text_encoder_", "text_conditioner.")
    found = [key_layout for key_layout in layout.key_layouts if key_layout.prefix.startswith(subfolders)]
    return next((key_layout for key_layout in found if key_layout.style == style), found[0])


def _whole(slot: Slot, stored: Stored) -> tuple[int, ...]:
    """Shape of the tensor that a slot's share is cut from."""
    if stored.transposed:
        return slot.shape[::-1]
    if stored.share is None:
        return slot.shape
    return (slot.shape[0] // stored.share.units * stored.share.of, *slot.shape[1:])


def name_index(modules: Iterable[Module]) -> NameTable[tuple[Binding, ...]]:
    """Adapter module name -> what it changes, over every name of every module.

    A name of a fused weight stands for all modules that are cut from it; no two of them share rows. The tests hold it
    for every architecture.
    """
    index: dict[str, list[Binding]] = {}
    for module in modules:
        for name in module.names:
            index.setdefault(name.text, []).append(Binding(module, name.rows))
    return NameTable({text: tuple(bindings) for text, bindings in index.items()})


@cache
def full_index(architecture: Architecture) -> NameTable[tuple[Binding, ...]]:
    """:func:`name_index` of a checkpoint of the real, full size that lacks nothing."""
    return name_index(modules(architecture, reference(architecture)))


@cache
def full_shapes(architecture: Architecture) -> NameTable[tuple[int, int]]:
    """Adapter module name -> ``(out, in)`` of all that it stands for in the deepest known checkpoint of the real, full size."""
    architecture = deepest(architecture)
    shapes: dict[str, tuple[int, int]] = {}
    for layout in architecture.layouts:
        for slot, names, _ in _named_slots(layout, architecture.namings):
            out, into = slot.shape[0], math.prod(slot.shape[1:])
            for name in names:
                shapes[name] = (shapes.get(name, (0, 0))[0] + out, into)
    return NameTable(shapes)
