"""Text encoders in files of their own, as Forge loads them beside a diffusion model (its additional modules)."""

from __future__ import annotations

from dataclasses import dataclass

from lib_transfer.architecture.architecture import Architecture, Tensors
from lib_transfer.architecture.layout import KeyLayout, Layout


@dataclass(frozen=True)
class Encoder:
    """A text encoder found in a file.

    Attributes:
        layout: which one of the architecture's it is.
        found: where it is in the file.
        key_layout: where a checkpoint that is one file keeps it, in the same style of keys.
    """

    layout: Layout
    found: KeyLayout
    key_layout: KeyLayout


def encoders_in(architecture: Architecture, tensors: Tensors) -> tuple[Encoder, ...]:
    """The text encoders of ``architecture`` that a file holds: one, or those of a whole checkpoint; none of other models.

    A text encoder is known by its structure alone: every weight of its layers is there, and no further layer. Where two
    have one structure, the first is meant.

    Args:
        architecture: the architecture whose text encoders they are to be.
        tensors: the file's keys and shapes.
    """
    places: dict[str, Encoder] = {}
    for layout in architecture.text_encoders:
        encoder = _encoder_in(layout, tensors)
        if encoder is not None:
            places.setdefault(encoder.found.prefix, encoder)
    return tuple(places.values())


def _encoder_in(layout: Layout, tensors: Tensors) -> Encoder | None:
    """Where a file holds one text encoder."""
    styles = dict.fromkeys(key_layout.style for key_layout in layout.key_layouts)
    candidates = [*layout.key_layouts, *(KeyLayout("", style) for style in styles)]
    for found in candidates:
        key_layout = next(key_layout for key_layout in layout.key_layouts if key_layout.style == found.style)
        if _holds(layout, found, tensors):
            return Encoder(layout, found, key_layout)
    return None


def _holds(layout: Layout, key_layout: KeyLayout, tensors: Tensors) -> bool:
    """Whether the weights of all layers are there, and no others."""
    slots = [slot for slot in layout.slots() if slot.position.unit]
    expected = {key_layout.prefix + stored.weight for slot in slots for stored in slot.stored_as(key_layout.style)}
    # Diffusers leaves out a last layer that the model does not read, so some may lack; a layer too much is another model.
    lacking = [key for key in expected if key not in tensors]
    layers = _root(key_layout, layout)
    strange = [k for k in tensors if k.startswith(layers) and k.endswith("weight") and k not in expected]
    return bool(expected) and len(lacking) * 20 < len(expected) and not strange


def _root(key_layout: KeyLayout, layout: Layout) -> str:
    """What the keys of all layers begin with: everything before the first number."""
    kept = (stored for slot in layout.slots() if slot.position.unit for stored in slot.stored_as(key_layout.style))
    stored = next(kept)
    words = stored.weight.split(".")
    number = next(place for place, word in enumerate(words) if word.isdigit())
    return key_layout.prefix + ".".join(words[:number]) + "."
