"""Adding to the metadata of an output that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load

from lib_transfer.errors import RequestError, StorageError
from lib_transfer.formats.metadata import PREFIX
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.formats.writer import Written, write_adapter


def of_ours(path: Path) -> dict[str, str]:
    """The metadata of an output of ours.

    Raises:
        RequestError: the file was not made by Transfer LoRA.
        BadFileError, StorageError: it cannot be read.
    """
    metadata = read_header(path).metadata
    if f"{PREFIX}request" not in metadata:
        raise RequestError(f"{path.name} was not made by Transfer LoRA, so nothing is added to it.")
    return metadata


def annotate(path: Path, texts: Mapping[str, str]) -> Written:
    """Add ``texts`` to the metadata of an output of ours; its tensors stay as they are, byte for byte.

    Args:
        path: the file; it is written anew, whole or not at all.
        texts: by key; what has such a key already is replaced.

    Raises:
        RequestError: the file was not made by Transfer LoRA, so that it is left alone.
        BadFileError, StorageError: it cannot be read or written.
    """
    metadata = of_ours(path)
    try:
        # Not mapped: Windows replaces no file that is.
        tensors = load(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    return write_adapter(path, tensors, {**metadata, **texts}, overwrite=True)
