"""Our settings, declared once: the WebUI's settings page and the standalone server's are both made from this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from lib_transfer import methods as registry
from lib_transfer.errors import RequestError
from lib_transfer.methods import METHODS, Parameter

PREFIX = "transfer_lora_"
"""Of our settings' names among the WebUI's."""

SECTION = ("transfer_lora", "Transfer LoRA")

NOT_SET = "as the input"
"""What stands in a list for a choice that is not made."""

TRANSFER_NOW, USE_ORIGINAL = MISSING = ("transfer it now", "use the original")

LEAVE, REPLACE, KEEP_BOTH = EXISTS = ("leave it alone", "replace it", "keep both")


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: its name, without :data:`PREFIX`.
        label: as shown; never changes, because translations and stored values go by it.
        help: one line for a person.
        default: what holds when nothing is stored.
        parameter: kind, bounds and choices; None for free text.
    """

    key: str
    label: str
    help: str
    default: Any
    parameter: Parameter | None = None

    def sound(self, value: Any) -> Any:
        """``value`` in the right type, or the default where it is not allowed."""
        if self.parameter is None:
            return value if isinstance(value, str) else self.default
        if value is None or value in ("", NOT_SET):
            return self.default
        if self.key == "method":
            value = registry.FORMER_IDS.get(value, value)
        try:
            return registry.checked(self.parameter, value)
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
    """Every parameter that some method declares, once."""
    return tuple(dict.fromkeys(p for method in METHODS for p in registry.parameters(method)))


# Where the parameter's own name says too little in a list of controls.
_LABELS = {"below": "Modules below the threshold", "rank": "Output rank", "dtype": "Output precision"}


def label(parameter: Parameter) -> str:
    """The label of a method's parameter."""
    return _LABELS.get(parameter.name, parameter.name.replace("_", " ").capitalize())


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the page."""
    return tuple(_all())


def _all() -> Iterator[Setting]:
    yield _text("output_folder", "Output sub-folder", "of the LoRA folder, for new files; empty: beside the original")
    yield _text(
        "template",
        "Name template",
        "of new files, from the tokens {lora} {source} {target} {method} {rank} {hash8}",
        "{lora}_{target}_{method}_{hash8}",
    )
    yield _choice("exists", "When the output exists", "what to do when another file has its name", EXISTS, LEAVE)
    yield _choice(
        "missing",
        "When a copy is missing",
        "for a tag in a prompt: make the copy before the picture, or use the original and say so",
        MISSING,
        TRANSFER_NOW,
    )
    ids = tuple(method.id for method in METHODS)
    yield _choice("method", "Default method", "the method that the tab starts with", ids, registry.DEFAULT)
    for parameter in parameters():
        yield Setting(
            parameter.name, f"Default {label(parameter).lower()}", parameter.help, parameter.default, parameter
        )
    devices = ("auto", "cpu", "cuda")
    yield _choice("device", "Device", "where to compute; auto takes a GPU where there is one", devices, "auto")
    yield _number("memory", "GPU memory limit", "GB that a transfer may take on the GPU; 0: no limit", 0.0, 1024.0)
    yield _number("batch_memory", "Memory for batches", "GB that the LoRAs at work in a batch may take", 2.0, 1024.0)
    yield _text("cache_folder", "Cache folder", "where decompositions are kept; empty: the usual place")
    yield _number("cache_size", "Cache size", "GB that decompositions may take; the oldest go first", 20.0, 4096.0)


@cache
def by_key(key: str) -> Setting:
    """The setting of this name."""
    return next(setting for setting in settings() if setting.key == key)
