"""The LoRA files in folders, and a name for each. Folders hold links of all kinds; nothing here goes round in circles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

EXTENSIONS = (".safetensors", ".pt", ".ckpt")


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


def walk(folder: Path) -> Iterator[str]:
    """Every file with an ending of a LoRA in ``folder`` and below; a folder that is reached twice is walked once.

    Hidden folders and files are left out, as the WebUIs do. A folder that cannot be read is empty.
    """
    seen: set[str] = set()
    pending = [str(folder)]
    while pending:
        here = pending.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:
            continue
        pending += [entry.path for entry in listed if _is(entry.is_dir)]
        yield from (e.path for e in listed if e.name.lower().endswith(EXTENSIONS) and _is(e.is_file))


def _is(ask: Callable[[], bool]) -> bool:
    """The answer; a link that leads nowhere, or round in a circle, is neither a folder nor a file."""
    try:
        return ask()
    except OSError:
        return False
