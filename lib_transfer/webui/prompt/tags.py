"""Finds and rewrites the tags in prompts that name LoRAs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

OURS = "tlora"
"""The tag that always asks for the transferred LoRA."""

EVERY = (OURS, "lora", "lyco")
"""Every tag that names a LoRA: ours, and the two that the programs' Lora extension reads."""

# As the programs find tags (extra_networks.py), but a tag with an empty name counts too.
_TAG = re.compile(r"<(\w+):([^>]*)>")


@dataclass(frozen=True)
class Tag:
    """``<kind:name...>``; ``rest`` is what follows the name, such as ``:0.8:te=0.5``."""

    kind: str
    name: str
    rest: str

    @property
    def program_kind(self) -> str:
        """The kind that the programs know."""
        return "lora" if self.kind == OURS else self.kind

    def written(self, kind: str, name: str) -> str:
        """The tag with another kind and name and the same weights."""
        return f"<{kind}:{name}{self.rest}>"


def holds(text: str, kinds: Collection[str]) -> bool:
    """Whether ``text`` may have a tag of ``kinds``. It must be quick, because most prompts have none."""
    return any(f"<{kind}:" in text for kind in kinds)


def replaced(text: str, kinds: Collection[str], new: Callable[[Tag], str]) -> str:
    """``text`` with every tag of ``kinds`` replaced by what ``new`` returns for it."""
    if not holds(text, kinds):
        return text

    def one(match: re.Match[str]) -> str:
        kind, inner = match.groups()
        if kind not in kinds:
            return match.group()
        name, colon, rest = inner.partition(":")
        return new(Tag(kind, name.strip(), colon + rest))

    return _TAG.sub(one, text)
