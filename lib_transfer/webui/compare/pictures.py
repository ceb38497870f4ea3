"""One picture of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Role = Literal["without", "source", "reuse", "transferred"]

ROLES: tuple[Role, ...] = ("without", "source", "reuse", "transferred")
"""What the pictures of a row show, from left to right: no LoRA, the original on its own checkpoint, the original on the target,
and the transferred LoRA."""


@dataclass(frozen=True)
class Shown:
    """One picture of a comparison.

    Attributes:
        lora: the name of the LoRA that the picture is about.
        title: what the picture shows.
        use: the name that stands in the prompt in place of the LoRA; "" where it is left out.
        seed: the seed of the picture.
        role: its place in the row.
        jpeg: the picture as a file.
        problem: why there is no picture although there should be one.
        left_out: why none was to be made.
    """

    lora: str
    title: str
    use: str
    seed: int
    role: Role = "without"
    jpeg: bytes = b""
    problem: str = ""
    left_out: str = ""


def in_row(pictures: Iterable[Shown]) -> list[Shown]:
    """The pictures of a LoRA from left to right."""
    return sorted(pictures, key=lambda picture: ROLES.index(picture.role))
