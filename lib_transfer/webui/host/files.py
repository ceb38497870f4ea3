"""The LoRAs in the page's lists: a line for each file, and the file for a line that comes back from the browser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib_transfer.library.adapters import adapters, walk

__all__ = ["adapters", "by_card", "entry", "name_in", "walk"]

# Stands between a name and the facts about it; no tool writes two blanks into a file name.
_MARK = "  ["


def entry(name: str, facts: str) -> str:
    """A line of the list: the name, and facts about the file."""
    return f"{name}{_MARK}{facts}]" if facts else name


def name_in(line: object, names: Mapping[str, Path]) -> str | None:
    """The name that a line from the browser stands for; None if there is no such file.

    Values from a browser cannot be trusted: only a name in ``names`` is ever returned.
    """
    if not isinstance(line, str):
        return None
    if line in names:
        return line
    name, mark, _ = line.rpartition(_MARK)
    return name if mark and name in names else None


def by_card(card: object, names: Mapping[str, Path]) -> str | None:
    """The name for a card of the WebUI, which names a LoRA by its file name alone; a whole name stands for itself."""
    if isinstance(card, str) and card in names:
        return card
    return next((name for name, path in names.items() if path.stem == card), None)
