"""Prompts as CLIP's tokens: byte-pair encoding (Sennrich et al. 2016) with the vocabulary of Radford et al. 2021.

The text is cleaned, lowered and cut into words as OpenAI's CLIP does it, which OpenCLIP and transformers follow.
"""

from __future__ import annotations

import gzip
import html
import importlib
from functools import cache
from typing import Any

from lib_transfer.errors import BadFileError
from lib_transfer.evaluation.loading.packages import need_packages, vocabulary

LENGTH, START, END = 77, 49406, 49407
"""The number of tokens of a prompt, and the tokens that begin and end it."""

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What is encoded by itself: English endings, letters together, each digit alone, other characters together."""

MERGES = START - 2 * 256
"""The number of merges: each makes a token, and so does every byte, within a word and at its end."""


def tokens(prompt: str, filler: int) -> list[int]:
    """77 numbers: the beginning, the prompt (cut where it is too long), the end, and ``filler``.

    Raises:
        BadFileError: the file with the vocabulary is damaged.
        UnsupportedError: there is none.
    """
    kept = [START, *_encoder().encode(cleaned(prompt)).ids[: LENGTH - 2], END]
    return kept + [filler] * (LENGTH - len(kept))


def cleaned(prompt: str) -> str:
    """The prompt with mended encoding, HTML's escapes undone, single spaces and small letters."""
    mended = importlib.import_module("ftfy").fix_text(prompt)
    return " ".join(html.unescape(html.unescape(mended)).split()).lower()


@cache
def _encoder() -> Any:
    module = importlib.import_module("tokenizers")
    merges = _merges()
    pieces = _bytes()
    listed = [*pieces, *(f"{piece}</w>" for piece in pieces), *map("".join, merges)]
    numbers = {text: number for number, text in enumerate(listed)}
    encoder = module.Tokenizer(module.models.BPE(numbers, merges, end_of_word_suffix="</w>"))
    split, to_bytes = module.pre_tokenizers.Split, module.pre_tokenizers.ByteLevel
    encoder.pre_tokenizer = module.pre_tokenizers.Sequence(
        [split(module.Regex(WORDS), "removed", invert=True), to_bytes(add_prefix_space=False)]
    )
    return encoder


def _merges() -> list[tuple[str, str]]:
    """The pairs that are merged, the most frequent first: a line each, behind the file's first line."""
    need_packages()
    path = vocabulary()
    assert path is not None
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 1 + MERGES]
        merges = [(one, other) for one, other in (line.split() for line in lines)]
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(str(path)) from error
    if len(merges) != MERGES:
        raise _damaged(str(path))
    return merges


def _damaged(path: str) -> BadFileError:
    return BadFileError(
        f"{path} is not CLIP's vocabulary.", reason="vocabulary", hint="Install the package that it belongs to again."
    )


def _bytes() -> list[str]:
    """The characters that stand for bytes, in the vocabulary's order: those that can be seen, then all others from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in seen] + [chr(256 + number) for number in range(256 - len(seen))]
