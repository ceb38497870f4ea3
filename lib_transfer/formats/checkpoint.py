"""Opening a model, whatever form it comes in: its first bytes tell, never its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lib_transfer.errors import BadFileError, TransferError
from lib_transfer.formats.regular_file import FileStamp, OpenFile, stamp
from lib_transfer.formats.stores.folder import weight_files
from lib_transfer.formats.stores.folder_store import FolderStore
from lib_transfer.formats.stores.gguf_store import GgufStore
from lib_transfer.formats.stores.quantised import dequantised
from lib_transfer.formats.stores.safetensors_store import SafetensorsStore
from lib_transfer.formats.stores.store import Contents, Store
from lib_transfer.formats.stores.torch_store import TorchStore
from lib_transfer.formats.stores.wrappers import unwrapped

__all__ = ["Contents", "Store", "checkpoint_files", "checkpoint_stamps", "model_name", "open_checkpoint"]


def open_checkpoint(path: str | os.PathLike[str]) -> Store:
    """The tensors of the checkpoint or adapter at ``path``, a file or a diffusers folder; they stay there until read.

    Raises:
        BadFileError: the file is not there, is damaged or beyond the limits (see
            :func:`~.safetensors_file.read_header` and the classes in :mod:`~lib_transfer.formats.stores`), or ``empty``
            when no tensor is in it.
        UnsupportedError: it is sound, and cannot be used; the message says why.
        StorageError: the system does not let us read it.
    """
    store = FolderStore(path, _open_file) if Path(path).is_dir() else _open_file(path)
    try:
        if not store.contents.tensors:
            raise BadFileError(f"{store.path} holds no tensors.", reason="empty")
        return unwrapped(dequantised(store))
    except TransferError:
        store.close()
        raise


def checkpoint_files(path: Path) -> tuple[Path, ...]:
    """Every file that decides what the model at ``path`` is: itself, or those of a diffusers folder that count.

    Raises:
        BadFileError, StorageError: it is a folder without a model, or cannot be looked into.
    """
    return weight_files(path) if path.is_dir() else (path,)


def checkpoint_stamps(path: Path) -> tuple[FileStamp, ...]:
    """The states its files are in now; those of the opened model, ``Store.stamps``, are equal while nothing changed.

    Raises:
        BadFileError, StorageError: as :func:`checkpoint_files`, or one is not there.
    """
    return tuple(map(stamp, checkpoint_files(path)))


def model_name(path: Path) -> str:
    """The name of a model for people: that of its file without the ending, or of its folder."""
    return path.resolve().name if path.is_dir() else path.stem


# By the first four bytes. No safetensors file begins so: its first eight would be a header longer than any that is accepted.
_BY_MAGIC: Mapping[bytes, type[TorchStore | GgufStore]] = {b"PK\3\4": TorchStore, b"GGUF": GgufStore}


def _open_file(path: str | os.PathLike[str]) -> Store:
    with OpenFile(path) as file:
        head = bytes(file.read(0, min(4, file.stamp.size)))
    return _BY_MAGIC.get(head, SafetensorsStore)(path)
