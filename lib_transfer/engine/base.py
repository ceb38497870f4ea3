"""A base: a checkpoint that was opened, recognised and divided into modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.architecture import Architecture, modules, name_index, recognise
from lib_transfer.architecture.module import Module
from lib_transfer.errors import TransferError, UnsupportedError
from lib_transfer.formats.checkpoint import Store, open_checkpoint


@dataclass(frozen=True)
class Base:
    """A checkpoint as the engine sees it.

    Attributes:
        path: of the file.
        sha256: of its contents.
        checkpoint: its tensors, on disk.
        architecture: what it is.
        modules: all of them, in forward order.
        by_name: modules by canonical name.
        by_adapter_name: modules by every name an adapter can use.
    """

    path: Path
    sha256: str
    checkpoint: Store
    architecture: Architecture
    modules: tuple[Module, ...]
    by_name: dict[str, Module]
    by_adapter_name: dict[str, Module]


@contextmanager
def open_base(path: Path, sha256: str) -> Iterator[Base]:
    """The checkpoint at ``path`` as a :class:`Base`, closed at the end.

    Raises:
        BadFileError, StorageError: it cannot be read.
        UnsupportedError: it is no checkpoint of a supported architecture; the message names the file.
    """
    with open_checkpoint(path) as checkpoint:
        try:
            _refuse_quantised(checkpoint)
            architecture = recognise(checkpoint.shapes)
            found = modules(architecture, checkpoint.shapes)
        except TransferError as error:
            raise type(error)(f"{path.name}: {error.message}", hint=error.hint) from error
        yield Base(path, sha256, checkpoint, architecture, found, {m.name: m for m in found}, name_index(found))


def _refuse_quantised(checkpoint: Store) -> None:
    """Raise for weights that are codes, not numbers: their plain names would pass for those of a sound checkpoint."""
    marks = (".scale_weight", "scaled_fp8", ".absmax", ".quant_map")
    coded = next((key for key in checkpoint.shapes if key.endswith(marks)), None)
    if coded is not None:
        raise UnsupportedError(
            f"its weights are quantised (it holds {coded}), which is not supported.",
            hint="Use the fp16 version of the checkpoint.",
        )
