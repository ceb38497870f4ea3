"""Which architectures an adapter belongs to: by the names and shapes of its modules, and by what its metadata say."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from lib_transfer.architecture.architecture import Architecture, full_shapes
from lib_transfer.architecture.registry import ARCHITECTURES
from lib_transfer.architecture.unsupported_adapters import FAMILIES, Shapes, family_by_names
from lib_transfer.spelling import usual

BEYOND, WRONG = 0.25, 0.5
"""The shares of an adapter's modules that may be in blocks that an architecture does not have, or of another shape than its
own, where the adapter is still taken to be for it."""


@dataclass(frozen=True)
class Identity:
    """What an adapter is for.

    Attributes:
        fitting: the architectures that its names and shapes fit best; several where these do not tell.
        architectures: those of them that its metadata speak for, or all where they speak for none.
        unsupported: the title of the model that it is for, where that one is not supported.
        doubt: a sentence where the metadata say something else, or where nothing says what it is for; else empty.
    """

    fitting: tuple[Architecture, ...] = ()
    architectures: tuple[Architecture, ...] = ()
    unsupported: str = ""
    doubt: str = ""

    @property
    def titles(self) -> tuple[str, ...]:
        """What it is for, for people; empty where that is not known."""
        return (self.unsupported,) if self.unsupported else tuple(it.title for it in self.architectures)

    @property
    def title(self) -> str:
        """The same in one text."""
        return " or ".join(self.titles)


def identity(names: Sequence[str], shapes: Shapes, said: Collection[str]) -> Identity:
    """What an adapter is for.

    Names and shapes decide. Metadata choose between what fits equally well, and between models that share their names.

    Args:
        names: the names of its modules.
        shapes: ``(out, in)`` of the update of each name, where known.
        said: what its metadata say of the base: ``ss_base_model_version``, ``modelspec.architecture``.
    """
    spoken, foreign = _spoken(said)
    words = _or([foreign] if foreign else [it.title for it in _without_relatives(spoken)])
    family = family_by_names(names, shapes)
    if family is not None:
        contradicted = bool(spoken) or (bool(foreign) and not _says(family.metadata, said))
        doubt = f"Its metadata call it {words}, but its modules are those of {family.title}." if contradicted else ""
        return Identity(unsupported=family.title, doubt=doubt)
    explained = _explaining(names, shapes)
    fitting = _without_relatives(explained)
    if foreign and all(it.core.part == "transformer" for it in explained):
        # Transformers share names with others that are no relatives; a UNet's names are its own.
        return Identity(fitting, unsupported=foreign)
    chosen = tuple(it for it in explained if it in spoken)
    if chosen:
        return Identity(fitting, _without_relatives(chosen))
    if fitting:
        doubt = f"Its metadata call it {words}, but its modules are those of {_or([it.title for it in fitting])}."
        return Identity(fitting, fitting, doubt=doubt if words else "")
    return Identity(doubt=_unknown(names, shapes, words) if names else "")


def identify_adapter(names: Collection[str], shapes: Shapes | None = None) -> tuple[Architecture, ...]:
    """The architectures whose modules an adapter names; empty if none knows most of the names.

    Args:
        names: the adapter's module names.
        shapes: ``(out, in)`` of the update of each name, where known. They decide between architectures that know
            equally many names, so that an adapter for a tiny model is identified too; but larger than in the full-size
            model, or of other proportions, they speak against it.

    Returns:
        Those that explain the most names; several when nothing tells them apart. A relative is not named beside the
        architecture that it stems from.
    """
    return _without_relatives(_explaining(names, shapes or {}))


def _unknown(names: Sequence[str], shapes: Shapes, said: str) -> str:
    """A sentence about an adapter that no architecture explains: what speaks against the one that comes nearest."""
    speaks = f" Its metadata call it {said}." if said else ""
    nearest = max(ARCHITECTURES, key=lambda it: sum(name in full_shapes(it) for name in names))
    known = full_shapes(nearest)
    for name in sorted(names):
        if name in known and _wrong(shapes.get(name), known[name]):
            sizes = f"it changes {by(shapes[name])} at {name}, where that has {by(known[name])}"
            return f"Its names are those of {nearest.title}, but not its sizes: {sizes}.{speaks}"
    patterns = _patterns(nearest)
    beyond = next((name for name in sorted(names) if name not in known and _pattern(name) in patterns), None)
    if beyond is not None:
        return f"Its names are like those of {nearest.title}, which has no {beyond}.{speaks}"
    first = ", ".join(sorted(names)[:2])
    like = _nearest(sorted(names))
    near = f"; they come nearest to {like[1]} of {like[0].title}" if like else ""
    return f"The names of its modules are not known (first: {first}){near}.{speaks}"


def _explaining(names: Collection[str], shapes: Shapes) -> list[Architecture]:
    """The architectures that know the most of the names, relatives among them."""
    scores = {it: score for it in ARCHITECTURES if (score := _score(it, names, shapes)) is not None}
    best = max(scores.values(), default=(0, 0))
    return [it for it, score in scores.items() if score == best]


def _score(architecture: Architecture, names: Collection[str], shapes: Shapes) -> tuple[int, int] | None:
    """How many names the architecture knows, and how many of the shapes are its own; None where it cannot be the one."""
    known = full_shapes(architecture)
    hits = [name for name in names if name in known]
    if not hits:
        return None
    patterns = _patterns(architecture)
    beyond = sum(_pattern(name) in patterns for name in set(names) - set(hits))
    wrong = sum(_wrong(shapes.get(name), known[name]) for name in hits)
    if 2 * len(hits) <= len(names) - beyond or beyond > BEYOND * len(names) or wrong > WRONG * len(names):
        return None
    return len(hits), sum(name in shapes and known[name] == tuple(shapes[name]) for name in hits)


def _wrong(shape: tuple[int, int] | None, full: tuple[int, int]) -> bool:
    """Whether an update of this shape cannot be for a module that has the shape ``full`` in the full-size model.

    A smaller one may be for a smaller model of the same proportions, as tests make them.
    """
    if shape is None:
        return False
    (out, into), (full_out, full_into) = shape, full
    if out > full_out or into > full_into:
        return True
    # Widths that are no whole multiples of each other do not shrink alike.
    return (full_out == full_into and out != into) or any(
        large % small == 0 and 1 < large // small <= 9 and own_large * small != own_small * large
        for large, small, own_large, own_small in (
            (full_out, full_into, out, into),
            (full_into, full_out, into, out),
        )
    )


@lru_cache(maxsize=1 << 16)
def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", usual(name))


@cache
def _patterns(architecture: Architecture) -> frozenset[str]:
    """The names that the architecture knows, without their numbers."""
    return frozenset(map(_pattern, full_shapes(architecture)))


def _nearest(names: Sequence[str]) -> tuple[Architecture, str] | None:
    """A known name that is like one of the first names, and the architecture that has it."""
    for name in names[:2]:
        wanted = _pattern(name)
        candidates = {pattern: it for it in reversed(ARCHITECTURES) for pattern in _patterns(it)}
        for pattern in difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.75):
            architecture = candidates[pattern]
            like = [it for it in full_shapes(architecture) if _pattern(it) == pattern]
            numbers = re.findall(r"\d+", name)
            return architecture, next((it for it in like if re.findall(r"\d+", it) == numbers), like[0])
    return None


def _without_relatives(found: Sequence[Architecture]) -> tuple[Architecture, ...]:
    """A relative is not named beside the architecture that it stems from."""
    ids = {architecture.id for architecture in found}
    return tuple(a for a in found if a.id == a.family or a.family not in ids)


# What metadata call a supported architecture, in lower case: the first that matches names those that may be meant.
SPOKEN: Mapping[str, tuple[str, ...]] = {
    r"chroma": ("chroma",),
    r"flux.*schnell": ("flux-schnell",),
    r"flux": ("flux-dev", "flux-schnell"),
    r"ssd[ ._-]?1b": ("ssd-1b",),
    r"vega": ("vega",),
    r"koala": ("koala-700m", "koala-1b"),
    r"xl.*refiner": ("sdxl-refiner",),
    r"sdxl|diffusion-xl|\bpony|illustrious|noobai": ("sdxl", "ssd-1b", "vega", "koala-700m", "koala-1b"),
    r"(?:sd|diffusion)[ ._-]?v?3[ ._-]5.*large": ("sd3.5-large",),
    r"(?:sd|diffusion)[ ._-]?v?3[ ._-]5.*medium": ("sd3.5-medium",),
    r"(?:sd|diffusion)[ ._-]?v?3[ ._-]5": ("sd3.5-medium", "sd3.5-large"),
    r"(?:sd|diffusion)[ ._-]?v?3": ("sd3-medium", "sd3.5-medium", "sd3.5-large"),
    r"(?:sd|diffusion)[ ._-]?v?2": ("sd2",),
    r"(?:sd|diffusion)[ ._-]?v?1": ("sd1",),
}


def _spoken(said: Collection[str]) -> tuple[tuple[Architecture, ...], str]:
    """The architectures that metadata speak of, or the title of a model that is not supported."""
    texts = [text.lower().removesuffix("/lora") for text in said if text]
    for text in texts:
        for family in FAMILIES:
            if _says(family.metadata, [text]):
                return (), family.title
        for pattern, ids in SPOKEN.items():
            if re.search(pattern, text):
                return tuple(it for it in ARCHITECTURES if it.id in ids), ""
    return (), ""


def _says(pattern: re.Pattern[str] | None, said: Collection[str]) -> bool:
    return pattern is not None and any(pattern.search(text.lower()) for text in said)


def by(shape: tuple[int, int]) -> str:
    """A shape for people."""
    return "x".join(map(str, shape))


def _or(titles: Sequence[str]) -> str:
    return " or ".join(titles)
