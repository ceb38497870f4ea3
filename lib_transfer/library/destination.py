"""Where an output goes, whether it is there already, and what may be written over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_transfer.errors import BadFileError, OutputExistsError, RequestError, TransferError
from lib_transfer.formats.identity import addnet_hash
from lib_transfer.formats.metadata import DATA_HASH, PREFIX
from lib_transfer.formats.naming import fill_template, safe_stem
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.request import TransferRequest, files_of

TEMPLATE = "{lora}_{target}_{method}_{hash8}"


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


def output_path(request: TransferRequest, destination: Destination) -> Path:
    """The file that the output of ``request`` is written to.

    Raises:
        RequestError: the name is the adapter's own (the hosts know a LoRA by its file name, in whatever folder it is).
    """
    files = files_of(request)
    if destination.file is not None:
        path = destination.file.with_suffix("") if destination.file.suffix == ".safetensors" else destination.file
        path = path.with_name(safe_stem(path.name) + ".safetensors")
    else:
        stem = fill_template(
            destination.template,
            lora=request.adapter_name,
            source=request.source_name or "",
            target=request.target_name,
            method=request.method,
            rank=str(request.setting("rank")),
            hash8=request.hash8,
        )
        path = (destination.folder or files.adapter.parent) / f"{stem}.safetensors"
    if path.stem.casefold() == request.adapter_name.casefold():
        raise RequestError(
            f"The output would have the adapter's own name, {path.stem}.",
            hint="WebUIs know a LoRA by its file name alone; choose another.",
        )
    return path


def is_done(path: Path, request: TransferRequest) -> bool:
    """Whether ``path`` is the undamaged output of an equal request, by its own metadata and hash."""
    try:
        metadata = read_header(path).metadata
        if metadata.get(f"{PREFIX}request") != request.to_json():
            return False
        return addnet_hash(path) == metadata.get(DATA_HASH)
    except TransferError:
        return False


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
