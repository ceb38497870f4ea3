"""The preview pictures that WebUIs keep beside a LoRA, made small for the page."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lib_transfer.formats.sidecars import preview_of

SIDE = 96
"""The longer side of a small picture in pixels; the page shows it at half of that, for screens of high resolution."""

MAX_BYTES = 32 << 20
MAX_PIXELS = 32 << 20
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def preview(adapter: Path) -> str:
    """The preview of the LoRA at ``adapter`` as a ``data:`` address of a small JPEG; "" where it has none that can be shown.

    A picture of more than :data:`MAX_BYTES` or :data:`MAX_PIXELS` is not opened: it would take too much memory.
    """
    path = preview_of(adapter)
    try:
        about = path.stat() if path is not None else None
    except OSError:
        about = None
    return "" if path is None or about is None else _small(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _small(path: Path, size: int, changed: int) -> str:
    """The small picture of a file of this size that was changed at this time."""
    if size > MAX_BYTES:
        return ""
    try:
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return ""
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))
            picture.thumbnail((SIDE, SIDE))
            made = io.BytesIO()
            picture.convert("RGB").save(made, "JPEG", quality=80)
    # What Pillow raises for damaged files is of many kinds.
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError, EOFError):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(made.getvalue()).decode()
