"""The pictures of a comparison as HTML, and how much they differ."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from lib_transfer.webui.compare.form import Scene
from lib_transfer.webui.compare.pictures import Shown
from lib_transfer.webui.shell.html import render


def gallery(pictures: Sequence[Shown], scene: Scene | None) -> Markup | str:
    """The pictures of every LoRA side by side, and what they have in common."""
    if not pictures or scene is None:
        return ""
    loras = dict.fromkeys(picture.lora for picture in pictures)
    rows = [[picture for picture in pictures if picture.lora == lora] for lora in loras]
    return render("comparison", scene=scene, rows=[[_figure(p, row) for p in row] for row in rows])


def _figure(picture: Shown, row: Sequence[Shown]) -> dict[str, Any]:
    return {
        "title": picture.title[:1].upper() + picture.title[1:],
        "problem": picture.problem,
        "address": "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode(),
        "stem": picture.use or "without",
        "differences": _differences(picture, row) if picture.jpeg else [],
    }


def _differences(picture: Shown, row: Sequence[Shown]) -> list[str]:
    """How much a picture differs from those before it in its row."""
    before = [other for other in row[: row.index(picture)] if other.jpeg]
    words = {
        other.use: "from the picture with the original" if other.use else "from the one without" for other in before
    }
    return [f"differs by {_difference(picture.jpeg, other.jpeg):.1f} {words[other.use]}" for other in before]


def _difference(one: bytes, other: bytes) -> float:
    """The mean absolute difference of two pictures of one size, between 0 and 255."""
    first, second = (np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(float) for jpeg in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0
