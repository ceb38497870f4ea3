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
        strange: names of its modules that none of ``fitting`` knows.
    """

    fitting: tuple[Architecture, ...] = ()
    architectures: tuple[Architecture, ...] = ()
    unsupported: str = ""
    doubt: str = ""
    strange: tuple[str, ...] = ()

    @property
    def titles(self) -> tuple[str, ...]:
        """What it is for, for people; empty where that is not known."""
        return (self.unsupported,) if self.unsupported else tuple(it.title for it in self.architectures)


def identity(names: Sequence[str], shapes: Shapes, said: Collection[str]) -> Identity:
    """What an adapter is for.

    Names and shapes decide. Metadata choose between what fits equally well, and between models that share their names.

    Args:
        names: the names of its modules.
        shapes: ``(out, in)`` of the update of each name, where known.
        said: what its metadata say of the base: ``ss_base_model_version``, ``modelspec.architecture``.
    """
    spoken, foreign, words = _spoken(said)
    family = family_by_names(names, shapes)
    if family is not None and not any(it.title in family.title.split(" or ") for meant in spoken for it in meant):
        return _of_family(family.title, spoken, foreign, words)
    explained = _explaining(names, shapes)
    fitting = _without_relatives(explained)
    if foreign and all(it.core.part == "transformer" for it in explained):
        # Transformers share names with others that are no relatives; a UNet's names are its own.
        return Identity(fitting, unsupported=foreign)
    if not fitting:
        return Identity(doubt=_unknown(names, shapes, words) if names else "")
    chosen = tuple(it for it in explained if any(it in meant for meant in spoken))
    agreed = tuple(it for it in chosen if all(it in meant for meant in spoken))
    architectures = _without_relatives(agreed or chosen or fitting)
    doubt = (
        "" if agreed or not words else f"Its metadata call it {words}, but its modules are those of {_titles(fitting)}."
    )
    strange = tuple(name for name in names if not any(name in full_shapes(it) for it in explained))
    return Identity(fitting, architectures, doubt=doubt, strange=strange)


def _of_family(title: str, spoken: Sequence[Meant], foreign: str, words: str) -> Identity:
    """An adapter for a model that is not supported; metadata may say which of several it is."""
    named = foreign.split(" or ")
    both = [model for model in title.split(" or ") if model in named]
    contradicted = bool(spoken) or (bool(foreign) and not both)
    doubt = f"Its metadata call it {words}, but its modules are those of {title}." if contradicted else ""
    return Identity(unsupported=" or ".join(both) or title, doubt=doubt)


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
    known, patterns = full_shapes(nearest), _patterns(nearest)
    hits = [name for name in sorted(names) if name in known]
    wrong = [name for name in hits if _wrong(shapes.get(name), known[name])]
    if len(wrong) > WRONG * len(names):
        sizes = f"it changes {by(shapes[wrong[0]])} at {wrong[0]}, where that has {by(known[wrong[0]])}"
        return f"Its names are those of {nearest.title}, but not its sizes: {sizes}.{speaks}"
    beyond = [name for name in sorted(names) if name not in known and _pattern(name) in patterns]
    if len(beyond) > BEYOND * len(names):
        return f"Its names are like those of {nearest.title}, which has no {beyond[0]}.{speaks}"
    rest = [name for name in sorted(names) if name not in known]
    first = ", ".join(rest[:2])
    like = _nearest(rest, nearest if hits else None)
    near = f"; they come nearest to {like[1]} of {like[0].title}" if like else ""
    if hits:
        return f"{len(hits)} of its {len(names)} modules have names of {nearest.title}, the others not: {first}{near}.{speaks}"
    return f"The names of its modules are not known (first: {first}){near}.{speaks}"


def _explaining(names: Collection[str], shapes: Shapes) -> list[Architecture]:
    """The architectures that know the most of the names, relatives among them."""
    scores = {it: score for it in ARCHITECTURES if (score := _score(it, names, shapes)) is not None}
    best = max(scores.values(), default=(0, 0))
    return [it for it, score in scores.items() if score == best]


def _score(architecture: Architecture, names: Collection[str], shapes: Shapes) -> tuple[int, int] | None:
    """How many shapes and names are the architecture's own; None where it cannot be the one.

    Shapes count first: others have the names of a full-size model too. Those of tiny models, as tests make them, are none's.
    """
    known = full_shapes(architecture)
    hits = [name for name in names if name in known]
    # Too few, even if as many others as are allowed are in blocks that it does not have. Patterns take long to make.
    if not hits or 2 * len(hits) <= (1 - BEYOND) * len(names):
        return None
    others = set(names) - set(hits)
    beyond = sum(_pattern(name) in _patterns(architecture) for name in others)
    wrong = sum(_wrong(shapes.get(name), known[name]) for name in hits)
    if 2 * len(hits) <= len(names) - beyond or beyond > BEYOND * len(names) or wrong > WRONG * len(names):
        return None
    return sum(name in shapes and known[name] == tuple(shapes[name]) for name in hits), len(hits)


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


def _nearest(names: Sequence[str], first: Architecture | None) -> tuple[Architecture, str] | None:
    """A known name that is like one of the first of these names, and the architecture that has it; ``first`` is asked first."""
    for asked in ([first] if first is not None else []), ARCHITECTURES:
        candidates = {pattern: it for it in reversed(asked) for pattern in _patterns(it)}
        for name in names[:2]:
            for pattern in difflib.get_close_matches(_pattern(name), candidates, n=1, cutoff=0.75):
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
    r"klein.*4b": ("flux2-klein-4b",),
    r"klein.*9b": ("flux2-klein-9b",),
    r"klein": ("flux2-klein-4b", "flux2-klein-9b"),
    r"flux[ ._-]?2.*dev": ("flux2-dev",),
    r"flux[ ._-]?2": ("flux2-klein-4b", "flux2-klein-9b", "flux2-dev"),
    r"krea[ ._-]?2": ("krea-2",),
    r"aura[ ._-]?flow|pony[ ._-]?v?7": ("auraflow",),
    r"flux.*schnell": ("flux-schnell",),
    r"flux.*dev": ("flux-dev",),
    r"flux": ("flux-dev", "flux-schnell"),
    r"ssd[ ._-]?1b": ("ssd-1b",),
    r"vega": ("vega",),
    r"koala": ("koala-700m", "koala-1b"),
    r"xl.*refiner": ("sdxl-refiner",),
    r"sdxl|diffusion-xl|\bpony|illustrious|noobai|animagine": ("sdxl", "ssd-1b", "vega", "koala-700m", "koala-1b"),
    r"(?:sd|diffusion)[ ._-]?v?3[ ._-]5.*large": ("sd3.5-large",),
    r"(?:sd|diffusion)[ ._-]?v?3[ ._-]5.*medium": ("sd3.5-medium",),
    r"(?:sd|diffusion)[ ._-]?v?3[ ._-]5": ("sd3.5-medium", "sd3.5-large"),
    r"(?:sd|diffusion)[ ._-]?v?3": ("sd3-medium", "sd3.5-medium", "sd3.5-large"),
    r"(?:sd|diffusion)[ ._-]?v?2": ("sd2",),
    r"(?:sd|diffusion)[ ._-]?v?1": ("sd1",),
    r"\banima(?![a-z])": ("anima",),
    r"cosmos": ("cosmos-predict2-2b",),
    r"z[ ._-]?image": ("z-image",),
    r"lumina|netayume": ("lumina-2",),
    r"qwen": ("qwen-image",),
    r"ernie": ("ernie-image",),
    r"\bwan(?![a-z]).*(?<![\d.])1[._]3b": ("wan-1.3b",),
    r"\bwan(?![a-z]).*(?<![\d.])5b": ("wan-5b",),
    r"\bwan(?![a-z]).*14b": ("wan-14b", "wan-i2v-14b"),
    r"\bwan(?![a-z])": ("wan-1.3b", "wan-5b", "wan-14b", "wan-i2v-14b"),
}


Meant = tuple[Architecture, ...]
"""The architectures that one text may mean."""


def _spoken(said: Collection[str]) -> tuple[list[Meant], str, str]:
    """What texts mean: the architectures of each, the title of a model that is not supported, and all of it in words."""
    meant: list[Meant] = []
    foreign = ""
    words: list[str] = []
    for text in (text.lower().removesuffix("/lora") for text in said if text):
        title = next((family.title for family in FAMILIES if family.metadata and family.metadata.search(text)), "")
        ids = () if title else next((ids for pattern, ids in SPOKEN.items() if re.search(pattern, text)), ())
        if title:
            foreign = foreign or title
            words.append(title)
        elif ids:
            meant.append(tuple(it for it in ARCHITECTURES if it.id in ids))
            words.append(_titles(_without_relatives(meant[-1])))
    return meant, foreign, " and ".join(dict.fromkeys(words))


def by(shape: tuple[int, int]) -> str:
    """A shape for people."""
    return "x".join(map(str, shape))


def _titles(found: Sequence[Architecture]) -> str:
    return " or ".join(it.title for it in found)
