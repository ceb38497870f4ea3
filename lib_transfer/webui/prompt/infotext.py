"""What a picture's parameters record about transferred LoRAs, and how the person's prompt is restored from them.

The prompt in the parameters names the transferred LoRAs with the programs' own tags, so that it works without this
extension. It is followed by ``Transfer LoRA: name -> method, target hash`` for people, by the tag that each transferred LoRA
stands for, so that the prompt can be restored, and by the state of the box.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from lib_transfer.webui.prompt.tags import EVERY, Tag, replaced

if TYPE_CHECKING:
    from lib_transfer.webui.prompt.resolution import Resolved

MADE = "Transfer LoRA"
TAGS = "Transfer LoRA tags"
BOX = "Use transferred LoRAs"
"""Also the label of the box, which the programs use as its name when parameters are sent from tab to tab."""

OLD_BOX = "Use transferred copies"
"""The name of the box in the parameters of older pictures."""

_PROMPTS = ("Prompt", "Negative prompt", "Hires prompt", "Hires negative prompt")
# Neither ":" nor ">" can stand in the name of a tag.
_PAIR = re.compile(r"<(\w+):([^:>]+)> is <(\w+):([^:>]+)>")


def forget(parameters: MutableMapping[str, Any]) -> None:
    """Remove what an earlier picture recorded: the pictures of a plot share their parameters."""
    for key in (MADE, TAGS, BOX):
        parameters.pop(key, None)


def tell(
    parameters: MutableMapping[str, Any], used: Iterable[Resolved], tags: Iterable[tuple[Tag, str]], box: bool
) -> None:
    """Record what the tags of a generation stood for.

    Args:
        parameters: ``p.extra_generation_params``.
        used: what each name in the prompt stands for.
        tags: the tags that were rewritten, each with its new name.
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
    """Put the person's own tags, and the state of the box, back into parameters that are sent to a prompt."""
    parameters.setdefault(BOX, parameters.pop(OLD_BOX, "False"))
    before = {(kind, name): (was, of) for kind, name, was, of in _PAIR.findall(str(parameters.pop(TAGS, "")))}
    if not before:
        return

    def own(tag: Tag) -> str:
        kind, name = before.get((tag.kind, tag.name), (tag.kind, tag.name))
        return tag.written(kind, name)

    for key in _PROMPTS:
        if isinstance(parameters.get(key), str):
            parameters[key] = replaced(parameters[key], EVERY, own)
    # The second prompt may differ from the first only because its checkpoint has its own transferred LoRA.
    for first, second in ((_PROMPTS[0], _PROMPTS[2]), (_PROMPTS[1], _PROMPTS[3])):
        if parameters.get(second) and parameters[second] == parameters.get(first):
            parameters[second] = ""
