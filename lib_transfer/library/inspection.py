"""What a file is: a checkpoint or an adapter, of which architecture, and what it says of itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lib_transfer.architecture import Identity, identity, modules, recognise
from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.adapter import Adapter, describe, open_adapter
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.matrix_shapes import matrix_shapes
from lib_transfer.formats.metadata import PREFIX, source_hints
from lib_transfer.version import SCHEMA


def inspect(path: str | Path) -> dict[str, Any]:
    """What a file is: a checkpoint or an adapter, of which architecture, and what it says of itself.

    Args:
        path: the path of the file, or of a folder with a diffusers model.

    Returns:
        An object as JSON knows them: ``kind`` is ``checkpoint`` or ``adapter``, ``architecture`` a title or a list of
        those that fit, the rest depends on the kind.

    Raises:
        BadFileError, StorageError: it cannot be read.
        UnsupportedError: it is neither a checkpoint nor an adapter that is known; the message says what it looks like.
    """
    path = Path(path)
    try:
        return _adapter(path)
    except UnsupportedError as no_adapter:
        try:
            return _checkpoint(path)
        except UnsupportedError as no_checkpoint:
            if no_checkpoint.message == no_adapter.message:
                raise
            raise UnsupportedError(
                f"{no_adapter.message} As a checkpoint: {no_checkpoint.message}", hint=no_checkpoint.hint
            ) from no_checkpoint


def _checkpoint(path: Path) -> dict[str, Any]:
    with open_checkpoint(path) as file:
        architecture = recognise(file.shapes)
        found = modules(architecture, file.shapes)
        return {
            "schema": SCHEMA,
            "file": path.name,
            "kind": "checkpoint",
            "architecture": architecture.title,
            "tensors": len(file.shapes),
            "dtypes": dict(Counter(file.dtype(key) for key in file.shapes).most_common()),
            "modules": dict(Counter(m.position.part for m in found)),
        }


def _adapter(path: Path) -> dict[str, Any]:
    with open_adapter(path) as adapter:
        description = describe(adapter)
    hints = source_hints(adapter.metadata)
    found = identify(adapter)
    return {
        "schema": SCHEMA,
        "file": path.name,
        "kind": "adapter",
        "architecture": list(found.titles),
        "supported": not found.unsupported and bool(found.architectures),
        "doubt": found.doubt,
        "algorithms": description.algorithms,
        "ranks": {str(rank): count for rank, count in description.ranks.items()},
        "convolutions": description.convolutions,
        "dtype": description.dtype,
        "names": description.prefixes,
        "embeddings": sorted(adapter.embeddings),
        "not_read": dict(Counter(unread.reason for unread in adapter.unsupported)),
        "trained_on": {
            "name": hints.name,
            "sha256": hints.sha256,
            "legacy_hash": hints.legacy_hash,
            "base_version": hints.base_version or hints.architecture,
        },
        "trigger_words": list(hints.trigger_words),
        "transferred_from": adapter.metadata.get(f"{PREFIX}parent_name"),
    }


def identify(adapter: Adapter) -> Identity:
    """What an adapter is for, by its names, shapes and metadata."""
    hints = source_hints(adapter.metadata)
    said = [text for text in (hints.base_version, hints.architecture) if text]
    return identity(list(adapter.groups), matrix_shapes(adapter), said)
