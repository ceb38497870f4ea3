"""Which architectures there are, and which of them a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib_transfer.architecture.anima import ANIMA
from lib_transfer.architecture.architecture import Architecture, Tensors, as_deep_as, key_layout_in
from lib_transfer.architecture.auraflow import AURAFLOW
from lib_transfer.architecture.chroma import CHROMA
from lib_transfer.architecture.cosmos import COSMOS_PREDICT2
from lib_transfer.architecture.ernie_image import ERNIE_IMAGE
from lib_transfer.architecture.flux import FLUX_DEV, FLUX_SCHNELL
from lib_transfer.architecture.flux2 import FLUX2_DEV, KLEIN_4B, KLEIN_9B
from lib_transfer.architecture.krea2 import KREA_2
from lib_transfer.architecture.lumina import LUMINA_2
from lib_transfer.architecture.qwen_image import QWEN_IMAGE
from lib_transfer.architecture.sd1 import SD1
from lib_transfer.architecture.sd2 import SD2
from lib_transfer.architecture.sd3 import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM
from lib_transfer.architecture.sdxl import KOALA_1B, KOALA_700M, REFINER, SDXL, SSD_1B, VEGA
from lib_transfer.architecture.unsupported_checkpoints import Unsupported, alike, unsupported
from lib_transfer.architecture.variant import EXTRAS
from lib_transfer.architecture.wan import WAN_1_3B, WAN_5B, WAN_14B, WAN_I2V_14B
from lib_transfer.architecture.z_image import Z_IMAGE
from lib_transfer.errors import UnsupportedError
from lib_transfer.kinds import kind_of, prefixes

ARCHITECTURES = (
    SD1,
    SD2,
    *(SDXL, SSD_1B, VEGA, KOALA_700M, KOALA_1B, REFINER),
    *(SD3_MEDIUM, SD35_MEDIUM, SD35_LARGE),
    *(FLUX_DEV, FLUX_SCHNELL, CHROMA),
    *(COSMOS_PREDICT2, ANIMA, Z_IMAGE, LUMINA_2),
    *(KLEIN_4B, KLEIN_9B, FLUX2_DEV),
    *(QWEN_IMAGE, WAN_1_3B, WAN_5B, WAN_14B, WAN_I2V_14B),
    *(ERNIE_IMAGE, KREA_2, AURAFLOW),
)


def architectures() -> tuple[Architecture, ...]:
    """Every supported architecture."""
    return ARCHITECTURES


def recognise(tensors: Tensors) -> Architecture:
    """What a checkpoint is, from the names and the numbers of dimensions of its tensors; widths do not count.

    A checkpoint may lack text encoders and VAE, and any module that is not essential: then it is a pruned relative of
    the architecture it lacks the fewest modules of (of several, the one that it holds the most text encoders of, and then
    the one that has the fewest). It may hold nothing that the architecture does not. An architecture of any depth comes
    with as many blocks as the file has.

    Raises:
        UnsupportedError: it is something else; the message says what it looks like.
    """
    return recognise_among(ARCHITECTURES, tensors)


def recognise_among(candidates: Iterable[Architecture], tensors: Tensors) -> Architecture:
    """:func:`recognise`, among these architectures."""
    sized = (as_deep_as(architecture, tensors) for architecture in candidates)
    comparisons = [found for architecture in sized if (found := _compare(architecture, tensors)) is not None]
    fitting = [comparison for comparison in comparisons if not comparison.objections]
    if fitting:
        if (family := alike(tensors)) is not None:
            raise _not_yet(family)
        return min(fitting, key=_lacks).architecture
    raise _refusal(tensors, comparisons)


def _refusal(tensors: Tensors, comparisons: Sequence[_Comparison]) -> UnsupportedError:
    """What a file is that is no checkpoint of a supported architecture."""
    found = prefixes(tensors)
    if not comparisons and len(found) > 1:
        return _behind(found)
    kind = kind_of(tensors)
    if kind is not None and kind.role != "checkpoint":
        return UnsupportedError(f"This is {kind.title}, not a checkpoint.", hint="Choose a full checkpoint.")
    if (family := unsupported(tensors)) is not None:
        return _not_yet(family)
    if comparisons:
        nearest = min(comparisons, key=lambda comparison: len(comparison.objections))
        first, *others = nearest.objections
        more = f" (and {len(others)} more)" if others else ""
        title = nearest.architecture.title
        return UnsupportedError(f"This is an unknown diffusion model: {title} comes nearest, but {first}{more}.")
    if found:
        return _behind(found)
    holds = f"it holds {_telling(tensors)}" if tensors else "it holds no tensors"
    return UnsupportedError(f"This is not a checkpoint of a known kind: {holds}.")


def _not_yet(family: Unsupported) -> UnsupportedError:
    return UnsupportedError(f"This is {family.what}, which is not supported yet.")


def _behind(found: Iterable[str]) -> UnsupportedError:
    """That it is not certain which names are meant, because of what stands before them."""
    stand = " and ".join(repr(prefix) for prefix in found)
    return UnsupportedError(
        f"This is not a checkpoint of a known kind: the names of its diffusion model stand behind {stand}.",
        hint="If it holds several models, save the one that is meant in a file of its own.",
    )


def _telling(tensors: Tensors) -> str:
    """The name of a tensor that says most of what the file is: one of the diffusion model, where it has one."""
    return min(tensors, key=lambda key: ("diffusion_model." not in key, key))


@dataclass(frozen=True)
class _Comparison:
    """How a file's diffusion model differs from an architecture's: what speaks against it, and how much it lacks.

    ``encoders`` says of how many of its text encoders the file holds something.
    """

    architecture: Architecture
    objections: tuple[str, ...]
    missing: int
    encoders: int


def _lacks(comparison: _Comparison) -> tuple[int, int, int]:
    """How much a file lacks of what it fits, in an order that does not depend on the list of architectures."""
    return comparison.missing, -comparison.encoders, len(comparison.architecture.text_encoders)


def _compare(architecture: Architecture, tensors: Tensors) -> _Comparison | None:
    """The comparison, or None if the file holds nothing of the architecture's diffusion model."""
    key_layout = key_layout_in(architecture.core, tensors)
    if key_layout is None:
        return None
    present = {
        key[len(key_layout.prefix) :]: len(shape)
        for key, shape in tensors.items()
        if key.startswith(key_layout.prefix) and key.endswith(".weight")
    }
    slots = architecture.core.slots()
    ways = {slot.path: [stored.weight for stored in slot.stored_as(key_layout.style)] for slot in slots}
    expected = {key: len(slot.shape) for slot in slots for key in ways[slot.path]}
    extras = EXTRAS if architecture.core.part == "unet" else frozenset()
    essential = sorted(ways[path][0] for path in architecture.core.essential if ways[path])
    known = (*extras, *architecture.beside)
    strange = [f"{key} is not part of it" for key in present if key not in expected and not key.startswith(known)]
    missing = [f"{key} is missing" for key in essential if key not in present]
    other = [
        f"{key} has {ndim} dimensions instead of {expected[key]}"
        for key, ndim in present.items()
        if ndim != expected.get(key, ndim)
    ]
    rows = [
        f"{key} has {tensors[key_layout.prefix + key][0]} rows instead of {count}"
        for path, count in architecture.rows
        for key in ways[path]
        if key in present and tensors[key_layout.prefix + key][0] != count
    ]
    lacking = sum(not any(key_layout.prefix + key in tensors for key in keys) for keys in ways.values())
    encoders = sum(key_layout_in(layout, tensors) is not None for layout in architecture.text_encoders)
    return _Comparison(architecture, (*strange, *missing, *other, *rows), lacking, encoders)
