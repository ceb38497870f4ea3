"""Our settings, declared once; the settings page of the WebUI and that of the standalone server are made from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.methods import METHODS, Parameter

PREFIX = "transfer_lora_"
"""What stands before the names of our settings among those of the WebUI."""

SECTION = ("transfer_lora", "Transfer LoRA")

FOLDERS = ("output_folder", "cache_folder")
"""The settings that name a folder."""

NOT_SET = "as the input"
"""The entry of a list that stands for no choice."""

TRANSFER_NOW, USE_ORIGINAL = MISSING = ("transfer it now", "use the original")

LEAVE, REPLACE, KEEP_BOTH = EXISTS = ("leave it alone", "replace it", "keep both")


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: its name, without :data:`PREFIX`.
        label: the label of its control.
        help: a line of help.
        default: the value when nothing is stored.
        parameter: its kind, bounds and choices; None for free text.
    """

    key: str
    label: str
    help: str
    default: Any
    parameter: Parameter | None = None

    def sound(self, value: Any) -> Any:
        """``value`` in the right type, or the default if it is not allowed."""
        if self.parameter is None:
            return value if isinstance(value, str) else self.default
        if value is None or value in ("", NOT_SET):
            return self.default
        if self.key == "method":
            value = methods.FORMER_IDS.get(value, value)
        try:
            return methods.checked(self.parameter, value)
        except RequestError:
            return self.default


def _text(key: str, label: str, text: str, default: str = "") -> Setting:
    return Setting(key, label, text, default)


def _choice(key: str, label: str, text: str, choices: tuple[str, ...], default: str) -> Setting:
    return Setting(key, label, text, default, Parameter(key, "choice", default, text, choices=choices))


def _number(key: str, label: str, text: str, default: float, most: float) -> Setting:
    return Setting(key, label, text, default, Parameter(key, "number", default, text, minimum=0.0, maximum=most))


@cache
def parameters() -> tuple[Parameter, ...]:
    """The parameters of all methods, each once."""
    return tuple(dict.fromkeys(p for method in METHODS for p in methods.parameters(method)))


# Labels for parameters whose own name says too little in a list of controls.
_LABELS = {"below": "Modules below the threshold", "rank": "Output rank", "dtype": "Output precision"}
_LABELS |= {"inserted": "Inserted blocks", "runs": "Most runs", "noise_seed": "Noise seed"}
_LABELS |= {"prompts": "Training prompts", "size": "Training size", "clip_skip": "Training Clip skip"}


def label(parameter: Parameter) -> str:
    """The label of a method's parameter."""
    return _LABELS.get(parameter.name, parameter.name.replace("_", " ").capitalize())


def help_of(parameter: Parameter) -> str:
    """The help for a method's parameter as a sentence; the command line shows it as it is declared."""
    text = parameter.help
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the page."""
    return tuple(_all())


def _all() -> Iterator[Setting]:
    text = "The folder for new files, inside the LoRA folder. Empty: the folder of the original."
    yield _text("output_folder", "Output sub-folder", text)
    text = "The names of new files. Tokens: {lora} {source} {target} {method} {rank} {hash8}."
    yield _text("template", "Name template", text, "{lora}_{target}_{method}_{hash8}")
    text = "What to do when there is another file of that name."
    yield _choice("exists", "When the output exists", text, EXISTS, LEAVE)
    text = "What to do for a tag in a prompt: transfer before the picture is made, or use the original and say so."
    yield _choice("missing", "When a transferred LoRA is missing", text, MISSING, TRANSFER_NOW)
    ids = tuple(method.id for method in METHODS)
    text = "The method that the tab starts with. Without a GPU, and in prompts, rotation takes the place of auto."
    yield _choice("method", "Default method", text, ids, "auto")
    for parameter in parameters():
        name = f"Default {label(parameter).lower()}"
        yield Setting(parameter.name, name, help_of(parameter), parameter.default, parameter)
    text = "Show the preview pictures of the chosen LoRAs in the tab."
    yield Setting("previews", "Show previews", text, True, Parameter("previews", "flag", True, text))
    text = "Where to compute. auto uses a GPU if there is one."
    yield _choice("device", "Device", text, ("auto", "cpu", "cuda"), "auto")
    text = "The most GB that a transfer may use on the GPU. 0: no limit."
    yield _number("memory", "GPU memory limit", text, 0.0, 1024.0)
    text = "The most GB of memory for the LoRAs that a batch works on at a time."
    yield _number("batch_memory", "Memory for batches", text, 2.0, 1024.0)
    yield _text("cache_folder", "Cache folder", "The folder for cached decompositions. Empty: the usual place.")
    text = "The most GB of cached decompositions. Those unused for longest are removed first."
    yield _number("cache_size", "Cache size", text, 20.0, 4096.0)


@cache
def by_key(key: str) -> Setting:
    """The setting of this name."""
    return next(setting for setting in settings() if setting.key == key)
