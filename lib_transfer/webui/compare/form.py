"""What the pictures of a comparison have in common, declared once: the controls and the checks are made from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.methods import Parameter
from lib_transfer.webui.host.abilities import Picture, Pictures
from lib_transfer.webui.prompt.tags import EVERY, Tag, replaced
from lib_transfer.webui.shell.form import FormValues

LONGEST = 20_000
"""The most characters of a prompt; a longer one does not come from our page."""

_SEEDS = 2**32


@dataclass(frozen=True)
class Scene(Picture):
    """What all pictures of a comparison have in common.

    Attributes:
        weight: the weight of the LoRA where the prompt does not give one.
    """

    weight: float

    def using(self, named: Callable[[str], bool], use: str) -> Scene:
        """The scene with the name ``use`` in place of a LoRA in the prompt; "" to leave the LoRA out.

        A prompt without a tag for the LoRA gets one. A tag of ours for another LoRA becomes an ordinary tag for the
        original, so that the pictures differ in one thing only.

        Args:
            named: whether a name in a tag means the LoRA.
            use: the name to write.
        """
        found = False

        def new(tag: Tag) -> str:
            nonlocal found
            if not named(tag.name):
                return tag.written(tag.program_kind, tag.name)
            found = True
            return tag.written(tag.program_kind, use) if use else ""

        prompt = replaced(self.prompt, EVERY, new)
        if use and not found:
            prompt = f"{prompt} <lora:{use}:{self.weight:g}>".strip()
        return replace(self, prompt=prompt)

    def seeded(self) -> Scene:
        """The scene with a random seed in place of a negative one."""
        return replace(self, seed=random.randrange(_SEEDS)) if self.seed < 0 else self


@dataclass(frozen=True)
class Field:
    """A number of a scene, with the label of its control."""

    label: str
    parameter: Parameter

    @property
    def name(self) -> str:
        """The name of the control, and of the scene's attribute."""
        return self.parameter.name


def _whole(name: str, label: str, text: str, default: int, low: int, high: int) -> Field:
    return Field(label, Parameter(name, "whole", default, text, minimum=low, maximum=high))


def _number(name: str, label: str, text: str, default: float, low: float, high: float) -> Field:
    return Field(label, Parameter(name, "number", default, text, minimum=low, maximum=high))


SAMPLING = (
    _whole("steps", "Steps", "Sampling steps.", 20, 1, 150),
    _number("cfg", "CFG scale", "How closely to follow the prompt.", 7.0, 1, 30),
    _number("weight", "LoRA weight", "Used if the prompt has no tag.", 1.0, -4, 4),
)
SIZE = (
    _whole("width", "Width", "Pixels.", 512, 64, 2048),
    _whole("height", "Height", "Pixels.", 512, 64, 2048),
    _whole("seed", "Seed", "The same for all; -1: random.", -1, -1, _SEEDS - 1),
)
TEXTS = ("prompt", "negative", "sampler")
"""The controls of a scene that are no numbers."""


def fields() -> tuple[Field, ...]:
    """The numbers of a scene."""
    return (*SAMPLING, *SIZE)


def scene_controls() -> tuple[str, ...]:
    """The names of the controls that a scene is read from."""
    return (*TEXTS, *(field.name for field in fields()))


def scene(values: FormValues, pictures: Pictures) -> Scene:
    """The scene that the controls of :func:`scene_controls` describe; the values come from a browser.

    Raises:
        RequestError: a value is missing, of the wrong type or out of its range.
    """
    for name in ("prompt", "negative"):
        if not isinstance(values[name], str) or len(values[name]) > LONGEST:
            raise RequestError("The prompt is not a text, or it is too long.")
    if values["sampler"] not in pictures.samplers():
        raise RequestError(f"There is no sampler {str(values['sampler'])[:60]}.", hint="Choose one under Sampler.")
    numbers = {field.name: methods.checked(field.parameter, values[field.name]) for field in fields()}
    size = {name: numbers[name] // 8 * 8 for name in ("width", "height")}
    return Scene(**{name: values[name] for name in TEXTS}, **{**numbers, **size})
