"""The pictures of a comparison as HTML, and how much they differ."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from lib_transfer.webui.compare.work import Shown
from lib_transfer.webui.transfer.html import error, note

ABOUT = (
    "The difference is the mean over all pixels, of 255. It says that pictures differ, not which one is better: that is for "
    "your eyes."
)


def gallery(pictures: Sequence[Shown]) -> str:
    """Every LoRA's pictures side by side."""
    if not pictures:
        return ""
    loras = dict.fromkeys(picture.lora for picture in pictures)
    rows = "".join(_row([picture for picture in pictures if picture.lora == lora]) for lora in loras)
    return f'<div class="transfer-lora-comparison"><h4>Seed {pictures[0].seed}</h4>{rows}{note(ABOUT)}</div>'


def _row(pictures: Sequence[Shown]) -> str:
    figures = "".join(_figure(picture, pictures) for picture in pictures)
    return f'<div class="transfer-lora-row">{figures}</div>'


def _figure(picture: Shown, row: Sequence[Shown]) -> str:
    title = escape(picture.title[:1].upper() + picture.title[1:])
    if picture.problem:
        return f"<figure>{error(picture.problem)}<figcaption>{title}</figcaption></figure>"
    address = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
    said = "".join(f"<br>{escape(text)}" for text in _differences(picture, row))
    link = f'<a download="{escape(picture.use or "without")}.jpg" href="{address}">Save</a>'
    return (
        f'<figure><img src="{address}" alt="{title}"><figcaption><b>{title}</b>{said}<br>{link}</figcaption></figure>'
    )


def _differences(picture: Shown, row: Sequence[Shown]) -> list[str]:
    """How far a picture is from the others that come before it in its row."""
    before = [other for other in row[: row.index(picture)] if other.jpeg]
    words = {other.use: "from that with the original" if other.use else "from that without" for other in before}
    return [f"differs by {_difference(picture.jpeg, other.jpeg):.1f} {words[other.use]}" for other in before]


def _difference(one: bytes, other: bytes) -> float:
    """The mean difference of two pictures of one size, of 255."""
    import numpy as np  # noqa: PLC0415 - the page is built without them
    from PIL import Image  # noqa: PLC0415

    first, second = (np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(float) for jpeg in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0
