"""What a verification is asked for: the values of the controls, checked."""

from __future__ import annotations

from dataclasses import dataclass

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.evaluation import verification
from lib_transfer.evaluation.conditions import MOST_CLIP_SKIP
from lib_transfer.methods import Parameter
from lib_transfer.webui.shell.form import FormValues

LONGEST, MOST_PROMPTS = 2000, 32
"""The most characters of a prompt, and the most prompts; more do not come from our page."""

INPUTS = Parameter(
    "inputs", "whole", verification.INPUTS, "More give a surer result and take longer.", minimum=1, maximum=64
)
SIZE = Parameter("size", "whole", 0, "Pixels; 0: the size the checkpoints were trained on.", minimum=0, maximum=2048)

CLIP_SKIP = Parameter(
    "clip_skip",
    "whole",
    0,
    "0: what the LoRA was trained with, if its metadata say so, else the WebUI's. Not less than XL's 2.",
    minimum=0,
    maximum=MOST_CLIP_SKIP,
)

NUMBERS = ("verify_inputs", "verify_size")
"""The names of the controls that the cost depends on."""

CONTROLS = ("verify_prompts", *NUMBERS, "verify_clip_skip")
"""The names of all controls."""


@dataclass(frozen=True)
class VerifyOrder:
    """What is to be done.

    Attributes:
        prompts: the prompts that the inputs are made from; none for those that the LoRA's metadata suggest.
        inputs: the number of inputs.
        size: the side of the pictures in pixels; 0 for the size that the checkpoints were trained on.
        clip_skip: the Clip skip; 0 for what the LoRA was trained with, else the WebUI's own.
    """

    prompts: tuple[str, ...]
    inputs: int
    size: int
    clip_skip: int = 0


def verify_order(values: FormValues) -> VerifyOrder:
    """What the controls of :data:`CONTROLS` ask for.

    Raises:
        RequestError: a value is of the wrong type or out of its range.
    """
    prompts = values["verify_prompts"]
    if not isinstance(prompts, str) or len(prompts) > LONGEST * MOST_PROMPTS:
        raise RequestError("The prompts are not a text, or they are too long.")
    lines = tuple(line.strip()[:LONGEST] for line in prompts.splitlines() if line.strip())[:MOST_PROMPTS]
    inputs = int(methods.checked(INPUTS, values["verify_inputs"]))
    size = int(methods.checked(SIZE, values["verify_size"]))
    clip_skip = int(methods.checked(CLIP_SKIP, values["verify_clip_skip"]))
    return VerifyOrder(lines, inputs, size, clip_skip)
