"""The files that a batch is about."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.errors import RequestError
from lib_transfer.library.walk import adapters


@dataclass(frozen=True)
class Found:
    """A file that may be a LoRA.

    Attributes:
        name: the path below its root without the ending; unique in a batch.
        path: of the file.
        below: the folder below the root that it lies in; "" for the root itself.
    """

    name: str
    path: Path
    below: str


def find(
    folders: Sequence[Path], *, recursive: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Found]:
    """Every file in ``folders`` that may be a LoRA, in the order of the names; a folder within another adds nothing.

    Args:
        folders: the roots.
        recursive: whether sub-folders count.
        include, exclude: patterns with ``*`` and ``?`` for the path below the root or the file name alone. Some of
            ``include`` must match, where there are any, and none of ``exclude``.

    Raises:
        RequestError: a folder is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RequestError(f"The folder {folder} does not exist.", hint="Name a folder with LoRAs in it.")
    chosen: dict[str, Found] = {}
    for found in placed(adapters(folders), folders):
        fits = (recursive or not found.below) and (not include or _matches(found, include))
        if fits and not _matches(found, exclude):
            chosen.setdefault(os.path.join(os.path.realpath(found.path.parent), found.path.name), found)  # noqa: PTH118
    return list(chosen.values())


def placed(names: Mapping[str, Path], roots: Sequence[Path]) -> list[Found]:
    """Adapters by name as a batch has them: each with its place below the first of ``roots`` that it lies in."""
    return [Found(name, path, _below(path, roots)) for name, path in names.items()]


def _below(path: Path, roots: Sequence[Path]) -> str:
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    below = path.parent.relative_to(root).as_posix()
    return "" if below == "." else below


def _matches(found: Found, patterns: Sequence[str]) -> bool:
    whole = f"{found.below}/{found.path.name}" if found.below else found.path.name
    return any(fnmatch.fnmatch(text, pattern) for pattern in patterns for text in (whole, found.path.name))
