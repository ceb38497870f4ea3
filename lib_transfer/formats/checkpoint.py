"""Opening a model, whatever form it comes in: its first bytes tell, never its name."""

from __future__ import annotations

import os

from lib_transfer.errors import BadFileError
from lib_transfer.formats.stores.safetensors_store import SafetensorsStore
from lib_transfer.formats.stores.store import Contents, Store

__all__ = ["Contents", "Store", "open_checkpoint"]


def open_checkpoint(path: str | os.PathLike[str]) -> Store:
    """The tensors of the checkpoint or adapter at ``path``, which stay there until they are read.

    Raises:
        BadFileError: the file is not there, is damaged or beyond the limits (see
            :func:`~.safetensors_file.read_header`), or ``empty`` when no tensor is in it.
        StorageError: the system does not let us read it.
    """
    store = SafetensorsStore(path)
    if not store.contents.tensors:
        store.close()
        raise BadFileError(f"{store.path} holds no tensors.", reason="empty")
    return store
