"""Levels that training put around a model, taken out of the names of its tensors where it is certain what is meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.stores.store import Store
from lib_transfer.kinds import kind_of, prefixes

LEVELS = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
}
"""Words that stand for no module of a model, wherever in a name, and what puts them there."""

MOST_LEVELS = 3

_LEVEL = re.compile(rf"(?<![^.])(?:{'|'.join(LEVELS)})\.")

# What the names in files begin with that nothing stands before, of models and of adapters.
_ROOT = re.compile(
    r"(?:(?:model\.)?diffusion_model|cond_stage_model|conditioner\.embedders|first_stage_model|vae|text_encoders|unet"
    r"|transformer|text_encoder(?:_\d)?|clip_[lgh]|t5\w*|te\d|base_model\.model|control_model)\."
    r"|(?:lora_(?:unet|te\d?|transformer|prior)|lycoris|oft_unet)_"
    r"|(?:input|output|double|single|joint|down|up)_blocks\.\d|(?:single_|joint_)?transformer_blocks\.\d"
    r"|(?:unet|text_encoder\w*):\d"
)

# Where the names of a diffusion model are expected to begin, by their first word: the place that is taken, and all others.
_SINGLE_FILE = ("model.diffusion_model.", "diffusion_model.", "")
_UNET = ("unet.", "")
# Qwen-Image has diffusers' names in single files too.
_TRANSFORMER = ("transformer.", *_SINGLE_FILE)
_EXPECTED: dict[str, tuple[str, ...]] = dict.fromkeys(("down_blocks", "up_blocks", "mid_block"), _UNET)
_EXPECTED |= dict.fromkeys(("transformer_blocks", "single_transformer_blocks"), _TRANSFORMER)


class RenamedStore(Store):
    """A store whose tensors have other names here.

    Args:
        inner: the store.
        names: the name of each tensor in ``inner``, by its name here; none is left out.
        notes: sentences that say so.
    """

    def __init__(self, inner: Store, names: Mapping[str, str], notes: tuple[str, ...]) -> None:
        self._inner, self._names = inner, names
        whole = inner.contents
        tensors = {name: whole.tensors[key] for name, key in names.items()}
        self.contents = replace(whole, tensors=tensors, notes=(*whole.notes, *notes), in_file=names)

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        return self._inner._load(self._names[key], rows)

    def close(self) -> None:
        """Let go of the files."""
        self._inner.close()


def unwrapped(store: Store) -> Store:
    """``store`` itself, or one without the levels that stand around a model in the names of its tensors.

    Raises:
        UnsupportedError: two tensors would have one name, so that it is not certain which is meant.
    """
    names = {key: key for key in store.contents.tensors}
    notes: list[str] = []
    if levels := sorted({word for key in names for word in _levels(key)}):
        names = _renamed(names, lambda key: _LEVEL.sub("", key))
        if (pair := _twice(names)) is not None:
            raise UnsupportedError(
                f"{store.path} holds {pair[0]} and {pair[1]}, which are one tensor without the level {' or '.join(levels)}.",
                hint="Save the one that is meant in a file of its own.",
            )
        notes += [f"Its names have the level {word} (of {LEVELS[word]}), which is left out." for word in levels]
    for whose, find in (("Its names", _common_prefix), ("The names of its diffusion model", _prefix_of_core)):
        shapes = {new: store.contents.tensors[old].shape for old, new in names.items()}
        change = find(shapes)
        if change is None:
            continue
        prefix, instead = change
        moved = {old: _moved(new, prefix, instead) for old, new in names.items()}
        if _twice(moved) is None:
            names = moved
            notes.append(f"{whose} stand behind {prefix!r}, which is left out.")
    return RenamedStore(store, {new: old for old, new in names.items()}, tuple(notes)) if notes else store


def _levels(key: str) -> Iterable[str]:
    return (match.group()[:-1] for match in _LEVEL.finditer(key))


def _renamed(names: Mapping[str, str], change: Callable[[str], str]) -> dict[str, str]:
    return {old: change(new) for old, new in names.items()}


def _twice(names: Mapping[str, str]) -> tuple[str, str] | None:
    """Two names in the file that are one without the levels; None where there are none."""
    seen: dict[str, str] = {}
    for old, new in names.items():
        if seen.setdefault(new, old) != old:
            return seen[new], old
    return None


def _moved(name: str, prefix: str, instead: str) -> str:
    return instead + name[len(prefix) :] if name.startswith(prefix) else name


def _common_prefix(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str] | None:
    """What all tensors but single numbers stand behind, where what follows is known and nothing is before; else None."""
    if any(_ROOT.match(key) for key in shapes):
        return None
    names = [key for key, shape in shapes.items() if shape not in ((), (1,))]
    if not names or _is_another_kind(shapes):
        return None
    words = min(names).split(".")
    if words[0] in ("encoder", "decoder"):  # of a VAE
        return None
    for count in range(1, min(MOST_LEVELS, len(words) - 1) + 1):
        prefix = ".".join(words[:count]) + "."
        if not all(name.startswith(prefix) for name in names):
            return None
        if any(_ROOT.match(name[len(prefix) :]) for name in names):
            return prefix, ""
    return None


def _prefix_of_core(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str] | None:
    """What stands before the one diffusion model of a checkpoint, if it is not known, and what is expected there."""
    found = prefixes(shapes)
    if len(found) != 1:
        return None
    [(prefix, word)] = found.items()
    expected = _EXPECTED.get(word, _SINGLE_FILE)
    return None if prefix in expected or _is_another_kind(shapes, adapters=True) else (prefix, expected[0])


def _is_another_kind(shapes: Mapping[str, tuple[int, ...]], *, adapters: bool = False) -> bool:
    """Whether it is of a known kind, and no checkpoint; what lies beside a diffusion model of unknown names does not count."""
    kind = kind_of(shapes)
    return kind is not None and kind.role in (("other", "adapter") if adapters else ("other",)) and not kind.part
