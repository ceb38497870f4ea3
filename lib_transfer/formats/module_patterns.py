"""PEFT's patterns for module names (``rank_pattern``, ``alpha_pattern``), matched without running them.

They are regular expressions, and a file could hold one that never ends. So they are read as what people write: letters,
``.``, ``\\.``, ``.*``, ``.+``, ``\\d``, ``\\d+``, ``^``, ``$`` and ``|``. Every place in the name that a pattern can have come
to is kept at once, so a match takes time in proportion to both lengths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_LENGTH = 512


class NotUnderstoodError(Exception):
    """Something that a configuration says is not understood; the message is a part of a sentence."""


_TOKEN = re.compile(r"\.[*+]|\\d\+?|\\\.|[\w.\-/^$]")


def matching(patterns: Iterable[str], path: str) -> str | None:
    """The first pattern that the whole of ``path``, or all of it behind some dot, matches (``peft.utils.get_pattern_key``).

    Raises:
        NotUnderstoodError: a pattern has something else in it; the message quotes it.
    """
    return next((pattern for pattern in patterns if _matches(pattern, path)), None)


def _matches(pattern: str, path: str) -> bool:
    parts = [_tokens(part, pattern) for part in pattern.split("|")]
    return any(_reaches_the_end(tokens, path) for tokens in parts)


def _tokens(part: str, pattern: str) -> list[str]:
    tokens = _TOKEN.findall(part)
    if "".join(tokens) != part or len(pattern) > MAX_LENGTH:
        raise NotUnderstoodError(f"it depends on the pattern {pattern[:64]!r}, which is not understood")
    return tokens


def _reaches_the_end(tokens: Iterable[str], path: str) -> bool:
    places = {0, *(place + 1 for place, sign in enumerate(path) if sign == ".")}
    for token in tokens:
        places = _after(token, places, path)
    return len(path) in places


def _after(token: str, places: set[int], path: str) -> set[int]:
    """Where in ``path`` a match can stand after ``token``, when it can stand at ``places`` before."""
    if token in ("^", "$"):
        return places & {0 if token == "^" else len(path)}
    if token in (".*", ".+"):
        first = min(places, default=len(path) + 1) + (token == ".+")
        return set(range(first, len(path) + 1))
    digits = token.startswith("\\d")
    after = {place + 1 for place in places if place < len(path) and _is(token, path[place])}
    while digits and token.endswith("+"):
        more = after | {place + 1 for place in after if place < len(path) and _is(token, path[place])}
        if more == after:
            break
        after = more
    return after


def _is(token: str, sign: str) -> bool:
    if token.startswith("\\d"):
        return sign.isdecimal()
    return token == "." or sign == token[-1]
