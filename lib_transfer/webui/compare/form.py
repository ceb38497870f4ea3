"""What the pictures of a comparison have in common, declared once: the controls and the checks are both made from this."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib_transfer import methods as registry
from lib_transfer.errors import RequestError
from lib_transfer.methods import Parameter
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.prompt.tags import EVERY, Tag, replaced

LONGEST = 20_000
"""Characters of a prompt; what is longer comes from no page of ours."""

_SEEDS = 2**32


@dataclass(frozen=True)
class Scene:
    """What every picture of a comparison has in common.

    Attributes:
        prompt, negative: as written.
        sampler: as the program names it.
        steps, cfg, width, height: as in txt2img; sizes in pixels.
        seed: of every picture.
        weight: of the LoRA, where the prompt does not say it.
    """

    prompt: str
    negative: str
    sampler: str
    steps: int
    cfg: float
    width: int
    height: int
    seed: int
    weight: float

    def prompt_with(self, named: Callable[[str], bool], use: str) -> str:
        """The prompt with one LoRA being ``use``: in the tags that name it, else in one more; "" for without.

        A tag of ours that names another LoRA stands for that one itself: pictures are to differ in one thing.

        Args:
            named: whether a name in a tag is that of the LoRA.
            use: the name to write.
        """
        found = False

        def new(tag: Tag) -> str:
            nonlocal found
            if not named(tag.name):
                return tag.written(tag.program_kind, tag.name)
            found = True
            return tag.written(tag.program_kind, use) if use else ""

        written = replaced(self.prompt, EVERY, new)
        return written if found or not use else f"{written} <lora:{use}:{self.weight:g}>".strip()

    def drawn(self) -> Scene:
        """The scene with a seed that is decided, where it is left to chance."""
        return replace(self, seed=random.randrange(_SEEDS)) if self.seed < 0 else self


@dataclass(frozen=True)
class Field:
    """A number of a scene, with its control's label."""

    label: str
    parameter: Parameter


def _whole(name: str, label: str, text: str, default: int, low: int, high: int) -> Field:
    return Field(label, Parameter(name, "whole", default, text, minimum=low, maximum=high))


FIELDS = (
    _whole("steps", "Steps", "of sampling", 20, 1, 150),
    Field("CFG scale", Parameter("cfg", "number", 7.0, "of the prompt", minimum=1, maximum=30)),
    Field("LoRA weight", Parameter("weight", "number", 1.0, "where not said", minimum=-4, maximum=4)),
    _whole("width", "Width", "in pixels", 512, 64, 2048),
    _whole("height", "Height", "in pixels", 512, 64, 2048),
    _whole("seed", "Seed", "of all; -1: random", -1, -1, _SEEDS - 1),
)
"""The numbers, in the order of the controls; prompt, negative prompt and sampler come before them."""


def scene(values: Sequence[Any], host: Host) -> Scene:
    """The scene of the controls' values, which come from a browser.

    Raises:
        RequestError: one is missing, of the wrong kind or out of its range.
    """
    prompt, negative, sampler, *numbers = values
    for text in (prompt, negative):
        if not isinstance(text, str) or len(text) > LONGEST:
            raise RequestError("The prompt is no text, or longer than any model reads.")
    if sampler not in host.samplers():
        raise RequestError(f"There is no sampler {str(sampler)[:60]}.", hint="Choose one under Sampler.")
    checked = {
        field.parameter.name: registry.checked(field.parameter, value)
        for field, value in zip(FIELDS, numbers, strict=True)
    }
    size = {name: checked[name] // 8 * 8 for name in ("width", "height")}
    return Scene(prompt, negative, sampler, **{**checked, **size})
