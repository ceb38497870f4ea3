"""What A1111 loads and Forge does not: bundled embeddings, and the normalisations of CLIP-L.

Forge passes over a few tensors that it does not know, and leaves out a LoRA with more than twelve (its
``extensions-builtin/sd_forge_lora/networks.py``, ``load_lora_for_models``). Of a CLIP text encoder it knows the projections of
a layer alone (``packages_3rdparty/comfyui_lora_collection/lora.py``, ``LORA_CLIP_MAP``). A1111 1.9.4 finds the layers'
normalisations of CLIP-L under kohya's names (``extensions-builtin/Lora/networks.py``), of OpenCLIP's none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.unread import EMBEDDING, Unread
from lib_transfer.library.base import Base

MOST_UNKNOWN = 12
"""How many tensors a LoRA may have that Forge does not know."""

TOO_MANY = f"with more than {MOST_UNKNOWN} tensors that it does not know, Forge would not load the LoRA at all"

A1111_ALONE = "which A1111 loads and Forge does not"

_NORMS = ("layer_norm1", "layer_norm2")


def as_a1111_names_it(module: Module, base: Base) -> Module | None:
    """A normalisation that A1111 alone loads, with the name that it is written under; None for every other module."""
    layouts = {layout.part: layout.model for layout in base.architecture.text_encoders}
    ours = layouts.get(module.position.part) == "clip-l" and module.position.role in _NORMS
    if not ours or module.output is not None or "A1111" not in base.architecture.hosts:
        return None
    name = next(
        (name for name in module.names if name.text.startswith("lora_te") and "_text_model_" in name.text), None
    )
    return None if name is None else dataclasses.replace(module, output=name)


def bundled(
    adapter: Adapter, reads_alike: Callable[[], bool] | None
) -> tuple[Mapping[str, Mapping[str, Tensor]], tuple[Unread, ...]]:
    """The bundled embeddings that are carried, and those that are not.

    Args:
        adapter: the adapter.
        reads_alike: whether both bases have the same text encoders; asked only where there are embeddings; None where there
            is no source to ask about.
    """
    if not adapter.embeddings:
        return {}, ()
    if sum(map(len, adapter.embeddings.values())) > MOST_UNKNOWN:
        reason = f"More than {MOST_UNKNOWN} bundled embeddings would keep Forge from loading the LoRA at all."
    elif reads_alike is None:
        reason = (
            "A bundled textual-inversion embedding belongs to the text encoder, and without the source it is not known "
            "whether the target has the same one."
        )
    elif reads_alike():
        return adapter.embeddings, ()
    else:
        reason = (
            "A bundled textual-inversion embedding belongs to the text encoder, which the target's files do not hold, or hold "
            "with other weights."
        )
    return {}, unread_embeddings(adapter.embeddings, reason)


def unread_embeddings(embeddings: Mapping[str, Mapping[str, Tensor]], reason: str) -> tuple[Unread, ...]:
    """Embeddings that are not carried, for this reason."""
    return tuple(
        Unread(
            EMBEDDING + name,
            tuple(f"{EMBEDDING}{name}.{suffix}" for suffix in suffixes),
            "embedding",
            reason,
            "embedding",
        )
        for name, suffixes in embeddings.items()
    )
