"""Which files of a diffusers folder its weights are in.

A pipeline (https://huggingface.co/docs/diffusers/using-diffusers/other-formats) has a subfolder for each model, in which the
weights lie in one file or in shards with an index that names the shard of each tensor. Often they are there several
times; then full precision goes before a variant such as ``fp16`` (variants in the order of their names), safetensors before
PyTorch, and one file before shards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.errors import BadFileError, StorageError
from lib_transfer.formats.regular_file import OpenFile
from lib_transfer.formats.tensor_info import MAX_TENSORS

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "text_conditioner")
SCHEDULER = ("scheduler", "scheduler_config.json")
MAX_JSON = 48 << 20
MAX_SHARDS = 1000

_CONFIG = "config.json"
_PIPELINE = "model_index.json"
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_NAME = re.compile(
    rf"(?P<stem>{'|'.join(_STEMS)})(?:\.(?P<early>\w+))?\.(?P<kind>safetensors|bin)(?P<index>\.index(?:\.(?P<late>\w+))?\.json)?"
)
_SHARD = re.compile(r".*-\d{5}-of-\d{5}(?:\.\w+)?\.safetensors")
_CLASSES = ((re.compile(r"UNet\w*ConditionModel"), "unet."), (re.compile(r"\w+Transformer[23]DModel"), "transformer."))


@dataclass(frozen=True)
class Part:
    """One model of a pipeline.

    Attributes:
        prefix: what goes before the names of its tensors.
        files: those that hold its tensors.
        index: the file that says which shard a tensor is in; None where there is one file.
        shards: the shard of each tensor; empty where there is one file.
    """

    prefix: str
    files: tuple[Path, ...]
    index: Path | None
    shards: Mapping[str, Path]


def parts_of(folder: Path) -> tuple[Part, ...]:
    """The models in a diffusers folder, or the one that the folder itself is.

    Raises:
        BadFileError: ``no_model``: it is no such folder; ``missing``: weights or shards of it are not there; ``index``: an
            index cannot be used.
        StorageError: the system does not let us look into it.
    """
    found = tuple(_part(folder / name, f"{name}.") for name in PARTS if _has_model(folder / name))
    if found:
        return found
    if (folder / _PIPELINE).is_file() or not _has_model(folder):
        what = f"none of the folders {', '.join(PARTS)} with a model in it, and is no such folder itself"
        raise BadFileError(
            f"{folder} has {what}.",
            reason="no_model",
            hint="Name a checkpoint, or a folder that diffusers has written.",
        )
    return (_part(folder, _own_prefix(folder)),)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Every file that decides what a folder holds, in the order of their names within it.

    Raises:
        BadFileError, StorageError: as :func:`parts_of`.
    """
    files = {path for part in parts_of(folder) for path in (*part.files, *([part.index] if part.index else []))}
    if (scheduler := folder.joinpath(*SCHEDULER)).is_file():
        files.add(scheduler)
    return tuple(sorted(files, key=lambda path: path.relative_to(folder).as_posix()))


def read_json(path: Path) -> object:
    """The content of a JSON file; None where it is none.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the file cannot be read.
    """
    with OpenFile(path) as file:
        text = bytes(file.read(0, min(file.stamp.size, MAX_JSON)))
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _has_model(folder: Path) -> bool:
    return (folder / _CONFIG).is_file() or any(_NAME.fullmatch(name) for name in _names(folder))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise StorageError(f"{folder} cannot be looked into: {error.strerror or error}.") from error


def _own_prefix(folder: Path) -> str:
    """The prefix of a part that stands alone: by its folder's name, else by what its configuration says it is."""
    name = folder.resolve().name
    if name in PARTS:
        return f"{name}."
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else None
    title = str(config.get("_class_name")) if isinstance(config, dict) else ""
    return next((prefix for pattern, prefix in _CLASSES if pattern.fullmatch(title)), "")


def _part(folder: Path, prefix: str) -> Part:
    names = _names(folder)
    chosen = min((match for match in map(_NAME.fullmatch, names) if match), key=_preference, default=None)
    if chosen is None:
        return Part(prefix, (_only_file(folder, names),), None, {})
    path = folder / chosen.group()
    if chosen["index"] is None:
        return Part(prefix, (path,), None, {})
    shards = {key: folder / name for key, name in _weight_map(path)}
    for name in sorted({shard.name for shard in shards.values()}):
        if name not in names:
            raise BadFileError(
                f"{folder} has no {name}, which {path.name} lists.",
                reason="missing",
                hint="Its download is not complete; download that file, too.",
            )
    return Part(prefix, tuple(sorted(set(shards.values()))), path, shards)


def _preference(match: re.Match[str]) -> tuple[str, bool, bool, int]:
    """What is preferred comes first; see the module."""
    return (
        match["early"] or match["late"] or "",
        match["kind"] != "safetensors",
        match["index"] is not None,
        _STEMS.index(match["stem"]),
    )


def _only_file(folder: Path, names: list[str]) -> Path:
    """The only safetensors file of a folder without names that diffusers gives."""
    files = [name for name in names if name.endswith(".safetensors")]
    if any(_SHARD.fullmatch(name) for name in files):
        raise BadFileError(
            f"{folder} has shards ({files[0]}) without the index that belongs to them.",
            reason="missing",
            hint="Download the file that ends in .index.json, too.",
        )
    if len(files) != 1:
        what = f"{len(files)} safetensors files, none with a name that diffusers gives" if files else "no weights"
        raise BadFileError(f"{folder} has {what}.", reason="missing", hint="Its download may not be complete.")
    return folder / files[0]


def _weight_map(index: Path) -> Iterator[tuple[str, str]]:
    """The names of the tensors and of their shards that an index lists; a shard lies beside the index, nowhere else."""
    content = read_json(index)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed or len(listed) > MAX_TENSORS:
        raise BadFileError(f"{index} is no index of shards.", reason="index", hint="Download it again.")
    if len(set(map(str, listed.values()))) > MAX_SHARDS:
        raise BadFileError(f"{index} lists more than {MAX_SHARDS} shards.", reason="index")
    for key, name in listed.items():
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\x00-\x1f]+", name) or name in (".", ".."):
            raise BadFileError(
                f"{index} names {str(name)[:80]!r} as a shard, which is not a file beside it.", reason="index"
            )
        yield key, name
