"""What a verification was made under: a match holds for these conditions, and may be another under others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEAST_CLIP_SKIP, MOST_CLIP_SKIP = 1, 12
"""The range of Clip skip in the programs: 1 leaves out no layer of the text encoder, 12 all but the first."""

Both = tuple[int, int]
"""A number of the source, and that of the target."""


@dataclass(frozen=True)
class Conditions:
    """The conditions of a verification.

    Attributes:
        clip_skip: the Clip skip that the prompts were encoded with, on the source and on the target.
        size: width and height of the pictures in pixels, on the source and on the target.
        seed: the seed of all noise.
        inputs: the number of inputs.
        prompts: the prompts, taken in turn.
    """

    clip_skip: Both
    size: Both
    seed: int
    inputs: int
    prompts: tuple[str, ...]

    @property
    def text(self) -> str:
        """Everything but the prompts themselves, as a sentence for a person."""
        inputs = f"{self.inputs} input{'' if self.inputs == 1 else 's'}"
        prompts = f"{len(self.prompts)} prompt{'' if len(self.prompts) == 1 else 's'}"
        size = _said(self.size)
        return f"This holds for {self.title}, pictures of {size} pixels, seed {self.seed}, and {inputs} of {prompts}."

    @property
    def title(self) -> str:
        """The Clip skip in words, which is what most often tells verifications apart."""
        return f"Clip skip {_said(self.clip_skip)}"

    def facts(self) -> dict[str, Any]:
        """The conditions for JSON."""
        return {
            "clip_skip": _named(self.clip_skip),
            "size": _named(self.size),
            "seed": self.seed,
            "inputs": self.inputs,
            "prompts": list(self.prompts),
        }


def conditions_in(facts: object) -> Conditions | None:
    """The conditions that :meth:`Conditions.facts` gave; None for anything else, for anyone may have written it."""
    if not isinstance(facts, dict):
        return None
    clip_skip, size = (_both(facts.get(name)) for name in ("clip_skip", "size"))
    seed, inputs, prompts = (facts.get(name) for name in ("seed", "inputs", "prompts"))
    if clip_skip is None or size is None or not isinstance(seed, int) or not isinstance(inputs, int):
        return None
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        return None
    return Conditions(clip_skip, size, seed, inputs, tuple(prompts))


def trained_clip_skip(metadata: Mapping[str, str]) -> int | None:
    """The Clip skip that a LoRA was trained with, from its metadata; None where they do not say.

    Args:
        metadata: the file's metadata, of which ``ss_clip_skip`` is read, as sd-scripts writes it: a number, or None.
    """
    text = metadata.get("ss_clip_skip", "").strip()
    number = int(text) if re.fullmatch(r"[0-9]{1,2}", text) else 0
    return number if LEAST_CLIP_SKIP <= number <= MOST_CLIP_SKIP else None


def _said(both: Both) -> str:
    source, target = both
    return str(source) if source == target else f"{source} on the source and {target} on the target"


def _named(both: Both) -> dict[str, int]:
    return dict(zip(("source", "target"), both, strict=True))


def _both(facts: object) -> Both | None:
    found = [facts.get(name) for name in ("source", "target")] if isinstance(facts, dict) else []
    source, target = found or (None, None)
    return (source, target) if isinstance(source, int) and isinstance(target, int) else None
