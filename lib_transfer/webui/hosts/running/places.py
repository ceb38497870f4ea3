"""Where the modules of a checkpoint lie in the model that a program built from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from lib_transfer.architecture.layout import Layout, Slot, Stored
from lib_transfer.errors import UnsupportedError
from lib_transfer.library.base import Base
from lib_transfer.models import Place


class Part(NamedTuple):
    """Where a program keeps one part of a model.

    Attributes:
        root: the object that the paths begin at.
        prefix: what stands before the keys there.
        style: the style of the keys: ``ldm``, ``native``, ``hf`` or ``openclip``.
    """

    root: nn.Module
    prefix: str
    style: str


PartOf = Callable[[Layout], Part | None]
"""Where a part of an architecture is; None where the program does not keep it."""


def places_of(base: Base, part_of: PartOf) -> dict[str, Place]:
    """The places of a loaded checkpoint, by canonical name of the module; those that the program lacks are left out.

    Args:
        base: the checkpoint.
        part_of: where the program keeps its parts.
    """
    found: dict[str, Place] = {}
    for part, name, slot, stored in _slots(base, part_of):
        place = _place(part, slot, stored) if name not in found else None
        if place is not None:
            found[name] = place
    return found


def need_whole(base: Base, places: Mapping[str, Place]) -> None:
    """Raise unless the program built every layer of the diffusion model that the checkpoint holds.

    Forge Neo's older versions build 28 blocks of an Anima that has 40, and say nothing.

    Raises:
        UnsupportedError: it did not.
    """
    part = base.architecture.core.part
    layers = [module.name for module in base.modules if module.position.part == part and module.kind != "norm"]
    lacking = [name for name in layers if name not in places]
    if lacking:
        raise UnsupportedError(
            f"This WebUI built {base.path.name} without {len(lacking)} of its {len(layers)} layers, the first of them "
            f"{lacking[0]}: what it predicts is not what the checkpoint does.",
            hint="A newer version of the WebUI may know this model.",
        )


def _slots(base: Base, part_of: PartOf) -> Iterator[tuple[Part, str, Slot, Stored]]:
    """Every slot that the checkpoint fills, with its canonical name and the ways in which the program may keep it."""
    for layout in base.architecture.layouts:
        part = part_of(layout)
        for slot in layout.slots() if part is not None else ():
            name = layout.key_layouts[0].prefix + slot.path
            if name in base.by_name and part is not None:
                for stored in slot.stored_as(part.style):
                    yield part, name, slot, stored


def _place(part: Part, slot: Slot, stored: Stored) -> Place | None:
    path, _, attribute = (part.prefix + stored.weight).rpartition(".")
    parent, module = descend(part.root, path)
    while module is not None and getattr(module, attribute, None) is None:
        module = wrapped(module)
    if module is None:
        return None
    bias = attribute.removesuffix("weight") + "bias"
    rows = None
    if stored.share is not None:
        # The parameter of a quantised layer has another shape.
        whole = getattr(module, "out_features", None) or getattr(module, attribute).shape[0]
        rows = stored.share.rows(whole // stored.share.of)
    # An attention of torch's own uses the weights of its projections without calling these.
    called = attribute == "weight" and not isinstance(parent, nn.MultiheadAttention)
    # Of a convolution over frames, the weight is exchanged.
    if slot.kind not in ("linear", "convolution") or not called or isinstance(module, nn.Conv3d):
        return Place(module, "other", attribute, bias, rows, stored.transposed)
    return Place(module, "convolution" if isinstance(module, nn.Conv2d) else "linear", attribute, bias, rows)


def descend(root: nn.Module, path: str) -> tuple[nn.Module | None, nn.Module | None]:
    """The object at ``path`` below ``root``, and the one that holds it; programs put wrappers around some on the way."""
    parent: nn.Module | None = None
    module: nn.Module | None = root
    for step in path.split(".") if path else ():
        parent = module
        while parent is not None and not isinstance(getattr(parent, step, None), nn.Module):
            parent = wrapped(parent)
        module = getattr(parent, step) if parent is not None else None
        if module is None:
            return None, None
    return parent, module


def wrapped(module: Any) -> nn.Module | None:
    """What a wrapper of the program is around (A1111's ``...WithCustomWords`` and ``EmbeddingsWithFixes``)."""
    inner = getattr(module, "wrapped", None)
    return inner if isinstance(inner, nn.Module) else None
