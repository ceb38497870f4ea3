"""How files name an adapter's tensors: a module, and a suffix that says what the tensor is to it, in many dialects.

kohya and LyCORIS write ``lora_unet_x.lora_up.weight``, PEFT and diffusers ``unet.a.b.lora_B[.adapter].weight``, older
diffusers ``unet.a.b.lora.up.weight``, ``a.processor.to_q_lora.up.weight`` and ``a.lora_linear_layer.up.weight``, XLabs
``a.processor.qkv_lora1.up.weight``. Files mix them, so every tensor is split by itself. The suffixes become those of kohya
and LyCORIS, which :mod:`~lib_transfer.formats.algorithms` reads; a module's name stays as the file has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from lib_transfer.formats.algorithms import ALGORITHMS
from lib_transfer.formats.algorithms.algorithm import SCALES
from lib_transfer.formats.algorithms.dora import MAGNITUDES, VECTOR
from lib_transfer.formats.algorithms.lora import DOWN, UP
from lib_transfer.formats.unread import FAMILIES
from lib_transfer.spelling import usual

# PEFT writes the adapter's own name into a model's whole state dict, and takes it out when it saves an adapter.
_ADAPTER = r"(?:\.[^.]+)?"

#: What a suffix is in kohya's and LyCORIS' words. A group in a pattern stands for itself.
DIALECTS: tuple[tuple[str, str], ...] = (
    (rf"lora_B(?:{_ADAPTER}\.weight)?|lora_up|lora(?:_linear_layer)?\.up\.weight", UP),
    (rf"lora_A(?:{_ADAPTER}\.weight)?|lora_down|lora(?:_linear_layer)?\.down\.weight", DOWN),
    (rf"lora_B{_ADAPTER}\.bias", "lora_up.bias"),
    (rf"lora_A{_ADAPTER}\.bias", "lora_down.bias"),
    (rf"lora_magnitude_vector{_ADAPTER}(?:\.weight)?", VECTOR),
    (rf"(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)){_ADAPTER}", r"\1"),
    (rf"oft_R{_ADAPTER}\.weight", "oft_R.weight"),
)

# cloneofsimo's lora counts layers.
_NUMBERED = re.compile(r"((?:unet|text_encoder):\d+):(up|down)")

# A module of older diffusers and of XLabs ends with what these stand behind.
_BEHIND_LORA = {"up.weight": UP, "down.weight": DOWN}

# Words that too many other tensors have: they belong to a module only where another tensor says that it is one.
_COMMON = {"weight", "bias"}

_PLAIN = sorted({suffix for algorithm in ALGORITHMS for suffix in algorithm.suffixes} - _COMMON)
_KNOWN = re.compile("|".join([*map(re.escape, _PLAIN), *(family.suffix.pattern for family in FAMILIES)]))
_COMPILED = tuple((re.compile(pattern), canonical) for pattern, canonical in DIALECTS)
_LORA_AT_THE_END = re.compile(r"_lora\d?\Z")
_LONGEST = 3  # parts of a suffix between dots


def split_names(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Per module the suffix of each of its tensors, by the tensor's full name, in the order of the modules' names.

    A module's name is the tensor's without the suffix, prefix included. A tensor with an unknown suffix belongs to the
    module whose name it begins with, or else to one named by all but its last part.
    """
    modules: dict[str, dict[str, str]] = {}
    strangers: list[str] = []
    for key in sorted(keys):
        if (found := _split(key)) is not None:
            modules.setdefault(found[0], {})[key] = found[1]
        else:
            strangers.append(key)
    for key, (name, suffix) in [(key, _beside(key, modules)) for key in strangers]:
        modules.setdefault(name, {})[key] = suffix
    _gather_scales(modules)
    _gather_spellings(modules)
    return dict(sorted(modules.items()))


def _split(key: str) -> tuple[str, str] | None:
    """The module and the suffix of a tensor whose suffix is known; the longest that there is."""
    if (numbered := _NUMBERED.fullmatch(key)) is not None:
        return numbered[1], _BEHIND_LORA[f"{numbered[2]}.weight"]
    parts = key.rsplit(".", _LONGEST)
    for place in range(1, len(parts)):
        module, suffix = ".".join(parts[:place]), ".".join(parts[place:])
        if (known := _known(suffix)) is not None:
            return module, known
        if suffix in _BEHIND_LORA and _LORA_AT_THE_END.search(module):
            return module, _BEHIND_LORA[suffix]
    return None


@lru_cache(maxsize=4096)
def _known(suffix: str) -> str | None:
    """A suffix in kohya's and LyCORIS' words; None when no algorithm has it."""
    for pattern, canonical in _COMPILED:
        if (match := pattern.fullmatch(suffix)) is not None:
            return match.expand(canonical)
    return suffix if _KNOWN.fullmatch(suffix) else None


def _beside(key: str, modules: Mapping[str, object]) -> tuple[str, str]:
    """The module that a tensor with an unknown suffix belongs to, and the suffix."""
    name = key
    while "." in name:
        name = name.rpartition(".")[0]
        if name in modules:
            return name, key[len(name) + 1 :]
    module, dot, suffix = key.rpartition(".")
    return (module, suffix) if dot else (key, "")


def _gather_scales(modules: dict[str, dict[str, str]]) -> None:
    """Add ``x.alpha`` and ``x.dora_scale`` to the module ``x_lora``, which ComfyUI reads them for."""
    for name in [name for name in modules if name.endswith("_lora")]:
        bare = name.removesuffix("_lora")
        if bare in modules and set(modules[bare].values()) <= {*SCALES, *MAGNITUDES}:
            modules[name] |= modules.pop(bare)


def _gather_spellings(modules: dict[str, dict[str, str]]) -> None:
    """Put what belongs to one module under two spellings of its name together.

    diffusers' conversion of a DoRA to kohya's names leaves a dot in those of the magnitudes.
    """
    spelled: dict[str, list[str]] = {}
    for name in modules:
        spelled.setdefault(usual(name), []).append(name)
    for names in spelled.values():
        main = max(names, key=lambda name: len(modules[name]))
        for name in names:
            if name != main and set(modules[name].values()) <= {*SCALES, *MAGNITUDES}:
                modules[main] |= modules.pop(name)
