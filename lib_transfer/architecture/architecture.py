"""An architecture as data, and what follows from it: a checkpoint's modules, and the list of all its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lib_transfer.architecture.layout import Core, Layout, Slot
from lib_transfer.architecture.module import Module
from lib_transfer.architecture.names import Family, all_names, output_name
from lib_transfer.errors import UnsupportedError

Tensors = Mapping[str, tuple[int, ...]]
"""Tensor key -> shape, as read from a file's header."""


@dataclass(frozen=True)
class Architecture:
    """A family of checkpoints that share one structure.

    Attributes:
        id: short and stable: ``sd1``, ``sdxl``.
        title: for people.
        card_version: the ``sd version`` of an A1111 user-metadata card.
        base_model_version: ``ss_base_model_version`` of an adapter for it (kohya's metadata).
        v2: ``ss_v2`` of an adapter for it: whether it is Stable Diffusion 2.
        modelspec_architecture: ``modelspec.architecture`` of a LoRA for it (Stability AI's ModelSpec).
        modelspec_implementation: ``modelspec.implementation`` of a LoRA for it.
        core: the diffusion model; it alone decides what a checkpoint is.
        text_encoders: in the order in which the model uses them; a file may lack them.
        families: how adapters name its modules. Of several that start from one spelling, the first is written.
    """

    id: str
    title: str
    card_version: str
    base_model_version: str
    v2: bool
    modelspec_architecture: str
    modelspec_implementation: str
    core: Core
    text_encoders: tuple[Layout, ...]
    families: tuple[Family, ...]

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


def prefix_in(layout: Layout, tensors: Tensors) -> str | None:
    """What this file puts before the keys of a part; None if it does not hold the part."""
    weights = [slot.weight for slot in layout.slots()]
    return next((prefix for prefix in layout.prefixes if any(prefix + weight in tensors for weight in weights)), None)


def modules(architecture: Architecture, tensors: Tensors) -> tuple[Module, ...]:
    """Every module of a checkpoint that an adapter can change, in forward order (text encoders first).

    Args:
        architecture: what :func:`lib_transfer.architecture.recognise` says the checkpoint is.
        tensors: the checkpoint's keys and shapes. Parts and modules that it lacks are left out.

    Raises:
        UnsupportedError: a tensor has not as many dimensions as its place demands, or a fused weight cannot be cut in
            three; the message names it.
    """
    found: list[Module] = []
    for layout in architecture.layouts:
        prefix = prefix_in(layout, tensors)
        if prefix is not None:
            found.extend(_modules_of(layout, prefix, architecture.families, tensors))
    return tuple(found)


def _modules_of(layout: Layout, prefix: str, families: tuple[Family, ...], tensors: Tensors) -> Iterator[Module]:
    canonical = layout.prefixes[0]
    for slot, names, output in _named_slots(layout, families):
        weight = prefix + slot.weight
        if slot.transposed or weight not in tensors:
            continue
        bias = None if slot.bias is None else prefix + slot.bias
        shape, rows = _cut(slot, weight, tensors[weight])
        yield Module(
            name=canonical + slot.path,
            weight=weight,
            bias=bias if bias in tensors else None,
            kind=slot.kind,
            shape=shape,
            rows=rows,
            fused=None if slot.fused is None else canonical + slot.fused,
            position=slot.position,
            names=names,
            output_name=output,
        )


@lru_cache(maxsize=64)
def _named_slots(layout: Layout, families: tuple[Family, ...]) -> tuple[tuple[Slot, tuple[str, ...], str | None], ...]:
    return tuple((slot, all_names(slot, families), output_name(slot, families)) for slot in layout.slots())


def _cut(slot: Slot, key: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, int] | None]:
    """Shape and rows of the slot's share of a tensor of this shape."""
    if len(shape) != len(slot.shape):
        raise UnsupportedError(
            f"The tensor {key} has the shape {shape}, but {len(slot.shape)} dimensions belong there ({slot.kind}).",
            hint="Quantised checkpoints must be converted to fp16 first.",
        )
    if slot.third is None:
        return shape, None
    share, rest = divmod(shape[0], 3)
    if rest:
        raise UnsupportedError(f"The tensor {key} has the shape {shape}, whose rows are not three equal parts q, k, v.")
    return (share, *shape[1:]), (slot.third * share, (slot.third + 1) * share)


def reference(architecture: Architecture, *, width: int | None = None) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of a single-file checkpoint that adapters can touch (no VAE), in forward order.

    Args:
        architecture: which checkpoint.
        width: channels of the diffusion model's first block; None for the real, full size. With a small width the keys
            and the structure stay and every width shrinks with it, for tiny models in tests.
    """
    tensors: dict[str, tuple[int, ...]] = {}
    for layout in architecture.layouts:
        sized = layout if width is None else layout.scaled(width)
        for slot in sized.slots():
            tensors[sized.prefixes[0] + slot.weight] = slot.shape
            if slot.bias is not None:
                tensors[sized.prefixes[0] + slot.bias] = slot.shape[:1]
    return tensors


def name_index(modules: Iterable[Module]) -> dict[str, Module]:
    """Adapter module name -> module, over every name of every module.

    No two modules of one checkpoint share a name; the tests hold it for every architecture.
    """
    return {name: module for module in modules for name in module.names}
