"""Where an output goes, and what may be written over."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lib_transfer.errors import BadFileError, OutputExistsError, RequestError, StorageError
from lib_transfer.formats.metadata import PREFIX
from lib_transfer.formats.naming import unique_stem
from lib_transfer.formats.safetensors_file import read_header

HASH = "{hash8}"
TEMPLATE = "{lora}_{target}_{method}_{hash8}"

Existing = Literal["skip", "overwrite", "both"]
"""What to do where an output of ours is in the way that is not the wanted one: leave it alone, retire it, or keep both."""


@dataclass(frozen=True)
class Destination:
    """Where the output goes.

    Attributes:
        folder: the folder for a file named after ``template``; None for the adapter's own folder.
        file: the very file to write, instead.
        template: the file name; see :func:`lib_transfer.formats.naming.fill_template`.
        overwrite: whether an output of ours that differs is replaced. A file that is not ours never is. Forge knows a
            LoRA by its file name, so one named by the template gets a new name, and the old file is removed.
    """

    folder: Path | None = None
    file: Path | None = None
    template: str = TEMPLATE
    overwrite: bool = False


def numbered(path: Path, taken: Container[str]) -> Destination:
    """The destination ``path``, with the first free number behind its name where another LoRA has that name.

    Args:
        path: the output.
        taken: names of files without ending, casefolded.
    """
    stem = unique_stem(path.stem, taken)
    return Destination(path.parent, template=stem.replace("{", "{{").replace("}", "}}"))


def to_replace(path: Path, destination: Destination) -> Path | None:
    """The file in the way, if it may be replaced.

    Raises:
        OutputExistsError: it may not.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        ours = f"{PREFIX}request" in read_header(path).metadata
    except BadFileError:
        ours = False
    if not ours:
        raise OutputExistsError(
            f"{path} exists and was not made by Transfer LoRA, so it is left alone.", hint="Choose another output."
        )
    if not destination.overwrite:
        raise OutputExistsError(
            f"{path} exists and is the output of another request, or was changed since.",
            hint="Choose another output, or allow overwriting (--overwrite).",
        )
    return path


def need_folder(folder: Path) -> None:
    """See that the output folder is there, or can be made as soon as something is written to it.

    Raises:
        RequestError: it is no folder, or lies in what is none.
        StorageError: it is not there, and may not be made.
    """
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir():
        why = "It" if there == folder else f"It cannot be made: {there}"
        raise RequestError(f"The output folder is {folder}. {why} is not a folder.", hint="Choose another.")
    if there != folder and not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(
            f"The output folder {folder} cannot be made: there is no permission to write to {there}.",
            hint="Check the permissions of that folder, or choose another one.",
        )
