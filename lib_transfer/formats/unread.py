"""Tensors that are recognised by their names but not read, and the sentence that says why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unread:
    """Tensors of one module that were not read.

    Attributes:
        name: the module as the file names it.
        tensors: the full names of its tensors that were not read.
        kind: a short stable code: the family, ``broken`` for a group that should be readable, ``unknown``, or ``extra``
            for what stands beside a group that was read.
        reason: one sentence.
    """

    name: str
    tensors: tuple[str, ...]
    kind: str
    reason: str


@dataclass(frozen=True)
class Family:
    """An algorithm known by its tensors' names: any suffix that matches makes the whole module its."""

    kind: str
    suffix: re.Pattern[str]
    reason: str


def _family(kind: str, suffix: str, reason: str) -> Family:
    return Family(kind, re.compile(rf"(?:{suffix})\Z"), reason)


# In order: the first that matches says what the module is.
FAMILIES: tuple[Family, ...] = (
    _family("dynamic", r"dyn_(?:up|down)", "Factors with a dynamic rank (dyn_up, dyn_down) are not supported."),
    _family("set", r"set_weight|reshape_weight", "A weight that is replaced or reshaped is not supported."),
    _family(
        "peft",
        r"lora_(?:A|B|embedding_A|embedding_B)(?:\.[^.]+)?(?:\.weight|\.bias)?|lora_magnitude_vector\.(?!weight\Z).+",
        "PEFT factors (lora_A, lora_B) are not supported yet.",
    ),
    _family(
        "diffusers",
        r"lora(?:_linear_layer)?\.(?:up|down)\.weight|.*_lora\d?\.(?:up|down)\.weight",
        "The factors are named as older diffusers or XLabs name them; that is not supported yet.",
    ),
)

_EMBEDDING = _family("embedding", "", "A bundled textual-inversion embedding changes no weight; it is not carried.")
_EMBEDDING_PREFIX = "bundle_emb."

DOTTED = "The module has a dotted name, as diffusers and ComfyUI write it; only kohya names are supported yet."

# Tensors that stand beside a group that is read.
EXTRAS: dict[str, str] = {
    "bias": "A1111 adds this tensor to the change of the weight; it is not carried.",
    "lora_up.bias": "The bias of the up factor is not carried.",
    "lora_down.bias": "The bias of the down factor is not carried.",
    "lora_B.bias": "The bias of the up factor is not carried.",
    "diff_b": "A difference of the bias beside another algorithm is not carried; A1111 does not read it either.",
    "diff": "A full difference beside another algorithm is not carried; A1111 reads only the first of the two.",
}
LONELY_SCALE = "A scale (alpha) without factors."
LONELY_MAGNITUDE = "A magnitude (DoRA) without the factors that it belongs to."
UNKNOWN = "The tensor's name belongs to no known algorithm."

# Where a dotted module name ends: before the first of these.
_DOTTED_END = re.compile(
    r"\.(?=(?:lora_|lora\.|lokr_|hada_|oft_|dora_scale|diff(?:_b)?\Z|alpha\Z|scale\Z|w_norm\Z|b_norm\Z"
    r"|on_input\Z|[ab][12]\.weight\Z|rescale\Z|set_weight\Z|reshape_weight\Z|magnitude|[^.]+_lora\d?\.(?:up|down)\.))"
)


def split_name(key: str) -> tuple[str, str]:
    """A tensor's module and suffix: by kohya's rule the text before and after the first dot.

    Names with a dotted module (diffusers, PEFT, ComfyUI) are split where an algorithm's suffix begins instead.
    """
    if key.startswith(_EMBEDDING_PREFIX):
        name, _, suffix = key.removeprefix(_EMBEDDING_PREFIX).partition(".")
        return _EMBEDDING_PREFIX + name, suffix
    if (match := _DOTTED_END.search(key)) is not None:
        return key[: match.start()], key[match.end() :]
    module, _, suffix = key.partition(".")
    return module, suffix


def family_of(name: str, suffixes: Iterable[str]) -> Family | None:
    """The unsupported algorithm that the module ``name`` with these suffixes is written in, or None."""
    if name.startswith(_EMBEDDING_PREFIX):
        return _EMBEDDING
    suffixes = list(suffixes)
    return next((family for family in FAMILIES if any(family.suffix.match(suffix) for suffix in suffixes)), None)
