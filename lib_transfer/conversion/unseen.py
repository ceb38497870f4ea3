"""Text encoders that a checkpoint's file lacks, because they lie in files of their own, and the names of their modules."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

from lib_transfer.architecture import Architecture, architectures
from lib_transfer.architecture.architecture import full_index
from lib_transfer.architecture.layout import Layout
from lib_transfer.architecture.module import Module
from lib_transfer.formats.adapter import Group
from lib_transfer.library.base import Base

FILES = {
    "clip-l": ("CLIP-L", "clip_l.safetensors"),
    "clip-g": ("CLIP-G", "clip_g.safetensors"),
    "clip-h": ("CLIP-H", "clip_h.safetensors"),
    "t5-xxl": ("T5-XXL", "t5xxl_fp16.safetensors"),
    "qwen3-0.6b": ("Qwen3 0.6B", "qwen_3_06b_base.safetensors"),
    "gemma2-2b": ("Gemma 2 2B", "gemma_2_2b_fp16.safetensors"),
    "anima-llm-adapter": ("LLM adapter", "anima.safetensors"),
}
"""What people call a text encoder, and the file that they have it in."""

_SMALL = 1 << 14


def lacking(base: Base) -> dict[str, Layout]:
    """The text encoders that no file of the base holds anything of, by part."""
    there = {module.position.part for module in base.modules}
    return {layout.part: layout for layout in base.architecture.text_encoders if layout.part not in there}


def need_encoder(base: Base, layout: Layout, *options: str) -> str:
    """That a file holds no text encoder, and what to do about it; a part of a sentence. As :func:`advice`."""
    return f"{no_encoder(base, layout)}; {advice(layout, *options)}"


def advice(layout: Layout, *options: str) -> str:
    """How to name the file of a text encoder; a part of a sentence.

    Args:
        layout: the text encoder.
        options: the options of the command line that the checkpoints were named with that lack it.
    """
    named = " and ".join(f"{option} {FILES[layout.model][1]}" for option in options)
    return f"name its file too: on the command line add {named}, in Forge choose it as VAE / Text Encoder"


def no_encoder(base: Base, layout: Layout) -> str:
    """That a file holds no text encoder; a part of a sentence."""
    return f"{base.path.name} holds no text encoder {FILES[layout.model][0]}"


def relative_with(base: Base, name: str) -> Architecture | None:
    """The architecture that has a module of this name, as adapters use it: the base's own, or the one that it stems from.

    A pruned relative lacks whole blocks of the latter, so their names say nothing against the adapter.
    """
    own = base.architecture
    family = (own, *(architecture for architecture in architectures() if architecture.id == own.family))
    return next((architecture for architecture in family if name in full_index(architecture)), None)


def unseen(group: Group, module: Module, told: tuple[int, int] | None) -> Module | None:
    """The module of a text encoder that no file holds, in the size that the group is made for; None where it is not known.

    Args:
        group: what changes it.
        module: the module at its full size.
        told: ``(out, in)`` of the group's update, where the header tells it.
    """
    shape: tuple[int, ...] | None = told
    if shape is None:
        # A file for a full-size model fits it; the updates of tiny ones are cheap to make.
        shape = module.shape
        if sum(math.prod(tensor.shape) for tensor in group.tensors.values()) <= _SMALL:
            update = group.update()
            shape = (
                update.shape if update.bias is None or update.changes_weight else (len(update.bias), *module.shape[1:])
            )
    if math.prod(shape) == math.prod(module.shape):
        shape = module.shape
    if any(own > full for own, full in zip(shape, module.shape, strict=False)):
        return None  # No encoder of this model is as wide.
    return None if len(shape) != len(module.shape) else dataclasses.replace(module, weight="", shape=shape)


def partners(module: Module, base: Base) -> list[Module]:
    """The other projections of the attention of a module that :func:`unseen` made, in the size of this one."""
    others = _fused(base.architecture).get(str(module.fused), ())
    return [dataclasses.replace(other, weight="", shape=module.shape) for other in others if other.name != module.name]


@cache
def _fused(architecture: Architecture) -> dict[str, tuple[Module, ...]]:
    """The modules that hosts load only together, by the name of their attention."""
    every = {binding.module.name: binding.module for found in full_index(architecture).values() for binding in found}
    groups: dict[str, list[Module]] = {}
    for module in every.values():
        if module.fused is not None:
            groups.setdefault(module.fused, []).append(module)
    return {name: tuple(modules) for name, modules in groups.items()}
