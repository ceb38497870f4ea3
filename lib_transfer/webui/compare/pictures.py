"""One picture of a comparison."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """One picture of a comparison.

    Attributes:
        lora: the name of the LoRA that the picture is about.
        title: what the picture shows.
        use: the name that stands in the prompt in place of the LoRA; "" where it is left out.
        seed: the seed of the picture.
        jpeg: the picture as a file.
        problem: why there is no picture.
    """

    lora: str
    title: str
    use: str
    seed: int
    jpeg: bytes = b""
    problem: str = ""
