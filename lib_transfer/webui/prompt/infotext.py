"""What a picture's parameters say of transferred copies, and how the prompt is made of them again.

The prompt in the parameters names the copies with the programs' own tags, so that it works without this extension. Beside it
stand, for a person, ``Transfer LoRA: name -> method, target hash``; for the way back, which tag each copy stands for; and
whether the box was ticked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from lib_transfer.webui.prompt.resolution import Resolved
from lib_transfer.webui.prompt.tags import EVERY, Tag, replaced

MADE = "Transfer LoRA"
TAGS = "Transfer LoRA tags"
BOX = "Use transferred copies"
"""The label of the box too, which is how the programs name it when parameters are sent from tab to tab."""

_PROMPTS = ("Prompt", "Negative prompt", "Hires prompt", "Hires negative prompt")
# Neither ":" nor ">" can stand in the name of a tag.
_PAIR = re.compile(r"<(\w+):([^:>]+)> is <(\w+):([^:>]+)>")


def forget(parameters: MutableMapping[str, Any]) -> None:
    """Take out what an earlier picture said: a plot's pictures share their parameters."""
    for key in (MADE, TAGS, BOX):
        parameters.pop(key, None)


def tell(
    parameters: MutableMapping[str, Any], used: Iterable[Resolved], tags: Iterable[tuple[Tag, str]], box: bool
) -> None:
    """Say what the tags of a generation stood for.

    Args:
        parameters: ``p.extra_generation_params``.
        used: every name that stands for something.
        tags: the tags that were written anew, each with the name that was written.
        box: whether the box was ticked.
    """
    said = (f"{r.name} -> {r.method}, {r.target_hash}" if r.method else f"{r.name} -> original" for r in used)
    if text := "; ".join(dict.fromkeys(said)):
        parameters[MADE] = text
    pairs = (
        f"<{tag.program_kind}:{name}> is <{tag.kind}:{tag.name}>"
        for tag, name in tags
        if (tag.program_kind, name) != (tag.kind, tag.name)
    )
    if text := "; ".join(dict.fromkeys(pairs)):
        parameters[TAGS] = text
    if box:
        parameters[BOX] = "True"


def restore(parameters: MutableMapping[str, Any]) -> None:
    """Put the person's own tags back into parameters that are being sent to a prompt; also says whether to tick the box."""
    parameters.setdefault(BOX, "False")
    before = {(kind, name): (was, of) for kind, name, was, of in _PAIR.findall(str(parameters.pop(TAGS, "")))}
    if not before:
        return

    def own(tag: Tag) -> str:
        kind, name = before.get((tag.kind, tag.name), (tag.kind, tag.name))
        return tag.written(kind, name)

    for key in _PROMPTS:
        if isinstance(parameters.get(key), str):
            parameters[key] = replaced(parameters[key], EVERY, own)
    # Two checkpoints have two copies of one LoRA, which alone may have made the second prompt another one.
    for first, second in ((_PROMPTS[0], _PROMPTS[2]), (_PROMPTS[1], _PROMPTS[3])):
        if parameters.get(second) and parameters[second] == parameters.get(first):
            parameters[second] = ""
