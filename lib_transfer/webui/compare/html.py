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
from lib_transfer.webui.compare.pictures import Role, Shown, in_row
from lib_transfer.webui.shell.html import render

_WITHOUT, _REUSE = "from the picture without", "from the one with the original"
_COMPARED: dict[Role, dict[Role, str]] = {
    "reuse": {"without": _WITHOUT},
    "transferred": {"without": _WITHOUT, "reuse": _REUSE},
}


def gallery(pictures: Sequence[Shown], scene: Scene | None) -> Markup:
    """The pictures of every LoRA side by side, and what they have in common; their empty place where there are none yet."""
    loras = dict.fromkeys(picture.lora for picture in pictures)
    rows = [[picture for picture in pictures if picture.lora == lora] for lora in loras]
    return render("comparison", scene=scene, rows=[[_figure(p, row) for p in in_row(row)] for row in rows])


def _figure(picture: Shown, row: Sequence[Shown]) -> dict[str, Any]:
    return {
        "role": picture.role,
        "left_out": picture.left_out,
        "title": picture.title[:1].upper() + picture.title[1:],
        "problem": picture.problem,
        "address": "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode(),
        "stem": f"{picture.role} {picture.lora.rpartition('/')[2]}",
        "differences": _differences(picture, row) if picture.jpeg else [],
    }


def _differences(picture: Shown, row: Sequence[Shown]) -> list[str]:
    """How much a picture differs from those before it that were made on the same checkpoint."""
    before = [other for other in row if other.jpeg and other.role in _COMPARED.get(picture.role, {})]
    return [
        f"differs by {_difference(picture.jpeg, other.jpeg):.1f} {_COMPARED[picture.role][other.role]}"
        for other in before
    ]


def _difference(one: bytes, other: bytes) -> float:
    """The mean absolute difference of two pictures of one size, between 0 and 255."""
    first, second = (np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(float) for jpeg in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0
