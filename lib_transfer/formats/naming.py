"""Names for the files we make: any text becomes a plain file stem that every system and both hosts take."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Container

from lib_transfer.errors import RequestError

MAX_BYTES = 120  # of UTF-8: 255 is the limit of most file systems, and side files and part files add to the stem
TOKENS = ("lora", "source", "target", "method", "rank", "hash8")
_CUTTABLE = ("lora", "source", "target")
_FORBIDDEN = frozenset('<>:"/\\|?*')
# Signs that change the direction of the text around them: a name could be shown as another one.
_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u2028\u2029")
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?=\.|\Z)")


def safe_stem(text: str) -> str:
    """``text`` as a file stem: never empty, no path, at most 120 bytes of UTF-8, the same for equal texts.

    Composed (NFC); without control signs, signs of direction and ``<>:"/\\|?*``; no dot at either end; Windows' device
    names get an underscore.
    """
    kept = _clean(text)
    if match := _RESERVED.match(kept):
        kept = f"{match.group()}_{kept[match.end() :]}"
    return _trim(_cut(kept, MAX_BYTES)) or "lora"


def unique_stem(stem: str, taken: Container[str]) -> str:
    """``stem``, or ``stem`` with the first free number behind it.

    Args:
        stem: a stem from :func:`safe_stem`.
        taken: stems in use, casefolded, because some systems do not tell upper from lower case.
    """
    candidate, number = stem, 2
    while candidate.casefold() in taken:
        suffix = f"_{number}"
        candidate = _cut(stem, MAX_BYTES - len(suffix)) + suffix
        number += 1
    return candidate


def fill_template(template: str, **tokens: str) -> str:
    """The stem that ``template`` describes, such as ``{lora}_{target}_{method}_{hash8}``.

    Where the result is too long, the longest of the names in it are cut; the hash never is.

    Args:
        template: text with some of the tokens of :data:`TOKENS` in braces.
        tokens: their values; dots and separators in them lose their meaning.

    Raises:
        RequestError: an unknown token, an unbalanced brace, a path separator, or a text that is too long by itself.
    """
    parts = _parse(template)
    values = {name: safe_stem(tokens[name]) if tokens.get(name) else "" for _, name in parts if name}

    def fill() -> str:
        return _clean("".join(text + values.get(name, "") for text, name in parts))

    while len(fill().encode()) > MAX_BYTES:
        longest = max((name for name in _CUTTABLE if values.get(name)), key=lambda name: len(values[name]), default="")
        if not longest:
            raise RequestError(f"The name template {template!r} is longer than {MAX_BYTES} bytes.")
        values[longest] = values[longest][:-1]
    return safe_stem(fill())


def _parse(template: str) -> list[tuple[str, str]]:
    """The template as pairs of plain text and the token after it ("" at the end)."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise RequestError(f"The name template {template!r} has a brace without its partner.") from error
    for text, name, form, conversion in parsed:
        if any(sign in "/\\\0" for sign in text):
            raise RequestError(f"The name template {template!r} may not hold a path.")
        if name is not None and (name not in TOKENS or form or conversion):
            known = ", ".join(f"{{{token}}}" for token in TOKENS)
            raise RequestError(f"The name template {template!r} has the unknown token {name!r}.", hint=f"Use {known}.")
    return [(text, name or "") for text, name, _, _ in parsed]


def _clean(text: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    # What is taken out may have stood between two signs that compose.
    return _trim(unicodedata.normalize("NFC", "".join(sign for sign in composed if _allowed(sign))))


def _allowed(sign: str) -> bool:
    return sign not in _FORBIDDEN and sign not in _DIRECTION and unicodedata.category(sign) not in {"Cc", "Cs"}


def _trim(text: str) -> str:
    return text.lstrip(". ").rstrip(". ").strip()


def _cut(text: str, limit: int) -> str:
    return text.encode("utf-8")[:limit].decode("utf-8", errors="ignore")
