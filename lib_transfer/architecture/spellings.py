"""Which names of an adapter's modules the programs load, and what is said of the others."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from lib_transfer.architecture.architecture import Architecture, deepest
from lib_transfer.spelling import usual

STYLES = {
    "native": "the model's own paths",
    "parameter": "the model's own paths",
    "converted": "paths that a converter got wrong",
    "dotted": "paths that a converter got wrong",
    "cut": "paths that were cut off",
    "ldm": "the checkpoint's own paths",
    "diffusers": "the paths of diffusers",
    "hf": "the paths of transformers",
    "hf bare": "the paths of transformers",
    "omi": "the paths of the Open Model Initiative's format",
    "xlabs": "the paths of XLabs",
    "diffsynth": "the paths of DiffSynth-Studio",
}
"""What the style of a naming is called; others number the layers."""


@cache
def _namings(architecture: Architecture) -> dict[str, tuple[str, str, bool]]:
    """Every known name, with the style and the prefix of its naming, and whether all programs load it on all that it changes.

    No other name would help a module that nothing can be written for, so those of it pass.
    """
    architecture = deepest(architecture)
    also = frozenset(architecture.also_loaded)
    found: dict[str, tuple[str, str, bool]] = {}
    for layout in architecture.layouts:
        namings = [naming for naming in architecture.namings if naming.part == layout.part]
        for slot in layout.slots():
            own: dict[str, list[tuple[str, str, bool]]] = {}
            for naming in namings:
                # The first spelling of a style is the path itself, which programs know; the others are tools' own.
                for number, (name, _) in enumerate(naming.names(slot)):
                    own.setdefault(name, []).append((naming.style, str(getattr(naming, "prefix", "")), number == 0))
            written = _written(slot.output, own)
            for name, ways in own.items():
                odd = any(part in name for part in architecture.not_loaded)
                usual = {(style, prefix) for style, prefix, first in ways if first}
                loads = written is None or name == written or (not odd and not also.isdisjoint(usual))
                style, prefix, before = found.get(name, (*ways[0][:2], True))
                found[name] = style, prefix, before and loads
    return found


def _written(style: str | None, names: dict[str, list[tuple[str, str, bool]]]) -> str | None:
    """The name that is written: the first in this style."""
    return next((name for name, ways in names.items() if any(it == style for it, _, _ in ways)), None)


def not_loaded(architecture: Architecture, names: Collection[str]) -> tuple[str, ...]:
    """A sentence for every family of names that the programs are not known to load; none where they load all of ``names``.

    Args:
        architecture: what the adapter is for.
        names: the names of the adapter's modules, as the file has them.
    """
    families: dict[str, list[str]] = {}
    known = _namings(architecture)
    for name in sorted(names):
        style, prefix, loads = known.get(name, ("", "", False))
        if not loads:
            strange = not style and usual(name) not in known
            words = f"names that no module of {architecture.title} has" if strange else _words(style, prefix)
            families.setdefault(words, []).append(name)
    first, _, second = architecture.hosts.partition(" or ")
    hosts = f"both {first} and {second}" if second else first
    return tuple(
        f"{len(found)} of its {len(names)} modules have {words}, which are not known to load in {hosts}: {found[0]}."
        for words, found in families.items()
    )


def _words(style: str, prefix: str) -> str:
    if not style:
        return "names in an unusual spelling"
    called = STYLES.get(style, "numbers in place of names")
    return (
        f'{called} behind "{prefix}"' if prefix else f"{called} with nothing before them" if style in STYLES else called
    )
