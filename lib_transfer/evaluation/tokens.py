"""Prompts as CLIP's tokens."""

from __future__ import annotations

import importlib
import random
from functools import cache
from typing import Any

from lib_transfer.models.networks.text import END, LENGTH, START

LAST_WORD = 49405


def tokens(prompt: str, filler: int) -> list[int]:
    """77 numbers: the beginning, the prompt (cut where it is too long), the end, and ``filler``.

    Without CLIP's vocabulary (the packages ``open_clip`` and ``clip`` have it) a word stands for a token that is drawn by its
    letters: another prompt is then other words, though not the ones it says.
    """
    words = vocabulary().encode(prompt) if vocabulary() is not None else _drawn(prompt)
    kept = [START, *words[: LENGTH - 2], END]
    return kept + [filler] * (LENGTH - len(kept))


@cache
def vocabulary() -> Any:
    """The tokenizer of a package that has CLIP's vocabulary; None where there is none."""
    found = (_tokenizer(name) for name in ("open_clip.tokenizer", "clip.simple_tokenizer"))
    return next((tokenizer for tokenizer in found if tokenizer is not None), None)


def _tokenizer(package: str) -> Any:
    try:
        return importlib.import_module(package).SimpleTokenizer()
    except Exception:
        # A package that is there and broken is as good as none.
        return None


def _drawn(prompt: str) -> list[int]:
    return [random.Random(word).randrange(1, LAST_WORD) for word in prompt.lower().split()]
