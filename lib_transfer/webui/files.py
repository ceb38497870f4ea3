"""The LoRAs that can be chosen: names for files, and files for names that come back from a browser."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib_transfer.engine.walk import walk

# Between a name and what is known of it in a list; no tool writes two blanks into a file name.
_MARK = "  ["


def adapters(folders: Iterable[Path]) -> dict[str, Path]:
    """Every LoRA file by name: its path below the folder, without the ending.

    Where two files would share a name, the later one keeps its ending, or is named after its folder too.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        # As texts: making paths of thousands of files takes longer than finding them.
        start = len(os.path.join(folder, ""))  # noqa: PTH118
        for path in sorted(walk(folder), key=str.casefold):
            name = path[start:].replace(os.sep, "/")
            stem = os.path.splitext(name)[0]  # noqa: PTH122
            free = next((n for n in (stem, name, f"{folder.name}/{name}") if n not in found), None)
            if free is not None:
                found[free] = Path(path)
    return found


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
