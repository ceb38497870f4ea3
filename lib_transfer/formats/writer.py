"""Writing an adapter, or new metadata into one of ours: checked before, read back after, published in one step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from lib_transfer.errors import BadFileError, NumericError, RequestError, StorageError
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.identity import addnet_hash
from lib_transfer.formats.metadata import DATA_HASH, PREFIX
from lib_transfer.formats.publish import publish
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.formats.serialise import Serialised, serialise, with_hashes


@dataclass(frozen=True)
class Written:
    """A file that is in place.

    Attributes:
        path: its name.
        size: how many bytes it has.
        sha256: the SHA-256 of the whole file.
        warnings: what failed after it was in place; the file itself is whole.
    """

    path: Path
    size: int
    sha256: str
    warnings: tuple[str, ...]


def write_adapter(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> Written:
    """Write a LoRA file with both ``sshs_*`` hashes of its own.

    Args:
        path: the file to make; its folder exists.
        tensors: the tensors by name, on any device.
        metadata: the texts by key; ``sshs_*`` are replaced, and an output of ours says the hash of its tensors once more.
        overwrite: whether a file that is there is replaced.

    Raises:
        NumericError: a tensor holds NaN or infinity.
        OutputExistsError: the file exists and ``overwrite`` is not set.
        StorageError: writing failed, or what was read back differs from what was written.
        RequestError: a text or a number format cannot be stored.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise NumericError(f"{name} would be written with NaN or infinity.")
    complete = with_hashes(tensors, metadata)
    model_hash = complete["sshs_model_hash"]
    if f"{PREFIX}request" in metadata:
        complete[DATA_HASH] = model_hash
    file = serialise(tensors, complete)
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes | memoryview]:
        for piece in file.pieces():
            digest.update(piece)
            yield piece

    def verify(part: Path) -> None:
        _read_back(part, file, model_hash)

    warnings = publish(path, pieces(), file.size, overwrite=overwrite, verify=verify)
    return Written(Path(path), file.size, digest.hexdigest(), tuple(warnings))


def _read_back(part: Path, file: Serialised, model_hash: str) -> None:
    """Raise :class:`StorageError` unless ``part`` holds ``file``, in our reading and in the library's."""
    expected = {name: list(tensor.shape) for name, tensor in file.tensors}
    try:
        header = read_header(part)
        same = header.size == file.size and addnet_hash(part) == model_hash
        same = same and {name: list(info.shape) for name, info in header.tensors.items()} == expected
        same = same and _library_reading(part, expected) == expected
    except (BadFileError, SafetensorError) as error:
        raise StorageError(f"What was written cannot be read back: {error}", hint="The disk may be failing.") from error
    if not same:
        raise StorageError("What was written reads back differently.", hint="The disk may be failing.")


def _library_reading(part: Path, expected: dict[str, list[int]]) -> dict[str, list[int]]:
    """The shapes the library finds; ``expected`` where it cannot map the file and so has nothing to say."""
    try:
        with safe_open(str(part), framework="pt", device="cpu") as opened:
            return {name: list(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, MemoryError):
        return expected


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
        texts: the texts by key; what has such a key already is replaced.

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
