"""The prompts that models are run with: made of the words that an adapter was trained on, and given to CLIP as tokens."""

from __future__ import annotations

import importlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lib_transfer.formats.metadata import source_hints
from lib_transfer.models.networks.text import END, LENGTH, START

PLAIN = ("a portrait of a person", "a landscape with a house", "an animal", "a street in a city")
"""The prompts for an adapter without metadata, and what is added to the words of one that has some."""

TAGS = 8
"""The number of the most frequent tags that are used."""

MAX_CHARACTERS = 200
"""The longest prompt that is made: metadata may hold anything."""

LAST_WORD = 49405
"""The last of CLIP's tokens that stands for text."""


def prompts_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Four prompts with an adapter's trigger words and most frequent tags, from its metadata; plain ones where it has none.

    Args:
        metadata: the file's metadata, of which are read ``modelspec.trigger_phrase``, and kohya's ``ss_tag_frequency``
            (JSON: counts by tag, by folder of training pictures).
    """
    triggers = list(source_hints(metadata).trigger_words)
    tags = [tag for tag in _tags(metadata.get("ss_tag_frequency", "")) if tag not in triggers]
    # A tag that is on nearly every picture is what a style or a character is called by.
    words = triggers or tags[:1]
    if not words:
        return PLAIN
    others = [tag for tag in tags if tag not in words]
    made = []
    for number, plain in enumerate(PLAIN):
        more = others[2 * number : 2 * number + 2] or [plain]
        made.append(", ".join([*words, *more])[:MAX_CHARACTERS])
    return tuple(made)


def plain_of(prompts: Sequence[str], metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Prompts without an adapter's trigger words: the same for every adapter, unless prompts were asked for.

    Args:
        prompts: those that were asked for; none for those of :func:`prompts_of`.
        metadata: the adapter's metadata, which tell its trigger words.
    """
    words = source_hints(metadata).trigger_words
    without = [_without(prompt, words) for prompt in prompts]
    changed = [made for made, prompt in zip(without, prompts, strict=True) if made and made != prompt]
    return tuple(dict.fromkeys(changed)) or PLAIN


def _without(prompt: str, words: Sequence[str]) -> str:
    """A prompt, which is a list with commas, without those of its entries that are among ``words``."""
    unwanted = {word.strip().casefold() for phrase in words for word in (phrase, *phrase.split(","))}
    return ", ".join(each.strip() for each in prompt.split(",") if each.strip().casefold() not in unwanted)


def _tags(text: str) -> list[str]:
    """The most frequent tags of all folders; none where the text is no such table."""
    try:
        folders = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return []
    counts: Counter[str] = Counter()
    for folder in folders.values() if isinstance(folders, dict) else ():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, int) and tag.strip():
                counts[tag.strip()] += count
    return [tag for tag, _ in counts.most_common(TAGS + 1)]


def tokens(prompt: str, filler: int) -> list[int]:
    """77 numbers: the beginning, the prompt (cut where it is too long), the end, and ``filler``.

    Without CLIP's vocabulary (the packages ``open_clip`` and ``clip`` have it) every word gets a pseudo-random token that
    depends on its letters: different prompts stay different, but the model is not told what they say.
    """
    words = vocabulary().encode(prompt) if vocabulary() is not None else _hashed(prompt)
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
        # A broken package counts as none, whatever it raises.
        return None


def _hashed(prompt: str) -> list[int]:
    return [random.Random(word).randrange(1, LAST_WORD) for word in prompt.lower().split()]
