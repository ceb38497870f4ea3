"""Where an output goes, and what may be written over."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lib_transfer.errors import BadFileError, OutputExistsError, RequestError
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
    """Raise :class:`RequestError` unless the folder is there."""
    if not folder.is_dir():
        raise RequestError(f"The output folder {folder} does not exist.", hint="Create it, or choose another.")
