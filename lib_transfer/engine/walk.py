"""Files in folders of LoRAs. Folders come with links of all kinds; nothing here goes round in circles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

EXTENSIONS = (".safetensors", ".pt", ".ckpt")


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
        # A broken link is neither a folder nor a file.
        pending += [entry.path for entry in listed if entry.is_dir()]
        yield from (e.path for e in listed if e.name.lower().endswith(EXTENSIONS) and e.is_file())
