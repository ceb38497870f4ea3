"""The LoRAs that can be chosen: names for files, and files for names that come back from a browser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib_transfer.library.adapters import adapters, walk

__all__ = ["adapters", "by_card", "entry", "name_in", "walk"]

# Between a name and what is known of it in a list; no tool writes two blanks into a file name.
_MARK = "  ["


def entry(name: str, facts: str) -> str:
    """A line of the list: the name, and what is known of it."""
    return f"{name}{_MARK}{facts}]" if facts else name


def name_in(line: object, names: Mapping[str, Path]) -> str | None:
    """The name that a line from the browser stands for; None where there is no such file.

    Values come from a browser and are not to be trusted: only what is in ``names`` is ever given back.
    """
    if not isinstance(line, str):
        return None
    if line in names:
        return line
    name, mark, _ = line.rpartition(_MARK)
    return name if mark and name in names else None


def by_card(card: object, names: Mapping[str, Path]) -> str | None:
    """The name for a card of the WebUI, which knows a LoRA by its file name alone."""
    return next((name for name, path in names.items() if path.stem == card), None)
