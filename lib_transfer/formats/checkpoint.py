"""Opening a model, whatever form it comes in: its first bytes tell, never its name."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lib_transfer.errors import BadFileError, TransferError
from lib_transfer.formats.regular_file import OpenFile
from lib_transfer.formats.stores.coded import plain_numbers
from lib_transfer.formats.stores.gguf_store import GgufStore
from lib_transfer.formats.stores.safetensors_store import SafetensorsStore
from lib_transfer.formats.stores.store import Contents, Store
from lib_transfer.formats.stores.torch_store import TorchStore

__all__ = ["Contents", "Store", "open_checkpoint"]


def open_checkpoint(path: str | os.PathLike[str]) -> Store:
    """The tensors of the checkpoint or adapter at ``path``, which stay there until they are read.

    Raises:
        BadFileError: the file is not there, is damaged or beyond the limits (see
            :func:`~.safetensors_file.read_header` and :class:`~.torch_store.TorchStore`), or ``empty`` when no tensor is
            in it.
        UnsupportedError: it is sound, and cannot be used; the message says why.
        StorageError: the system does not let us read it.
    """
    store = _open(path)
    try:
        if not store.contents.tensors:
            raise BadFileError(f"{store.path} holds no tensors.", reason="empty")
        return plain_numbers(store)
    except TransferError:
        store.close()
        raise


# By the first four bytes. No safetensors file begins so: its first eight would be a header longer than any that is accepted.
_BY_MAGIC: Mapping[bytes, type[TorchStore | GgufStore]] = {b"PK\3\4": TorchStore, b"GGUF": GgufStore}


def _open(path: str | os.PathLike[str]) -> Store:
    with OpenFile(path) as file:
        head = bytes(file.read(0, min(4, file.stamp.size)))
    return _BY_MAGIC.get(head, SafetensorsStore)(path)
