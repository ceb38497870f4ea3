"""The prompts that models are run with: made of the words that an adapter was trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from lib_transfer.formats.metadata import source_hints

PLAIN = ("a portrait of a person", "a landscape with a house", "an animal", "a street in a city")
"""The prompts for an adapter without metadata, and what is added to the words of one that has some."""

TAGS = 8
"""The number of the most frequent tags that are used."""

MAX_CHARACTERS = 200
"""The longest prompt that is made: metadata may hold anything."""


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
