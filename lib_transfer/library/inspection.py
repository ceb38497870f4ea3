"""What a file is: a checkpoint or an adapter, of which architecture, and what it says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib_transfer.architecture import Identity, identity, modules, recognise
from lib_transfer.architecture.sampling import SAMPLINGS
from lib_transfer.architecture.siblings import named
from lib_transfer.architecture.unsupported_checkpoints import unsupported
from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.description import describe
from lib_transfer.formats.matrix_shapes import matrix_shapes
from lib_transfer.formats.metadata import PREFIX, source_hints
from lib_transfer.formats.peft_folder import adapter_file, adapter_name, config_beside
from lib_transfer.formatting import rounded
from lib_transfer.kinds import NEITHER, ONLY_THESE, kind_of, prefixes
from lib_transfer.library.variant import names_of, variant_of
from lib_transfer.version import SCHEMA


def inspect(path: str | Path) -> dict[str, Any]:
    """What a file is: a checkpoint or an adapter, of which architecture, and what it says of itself.

    Args:
        path: the path of the file, or of a folder with a diffusers model or an adapter of PEFT's.

    Returns:
        An object as JSON knows them: ``kind`` is ``checkpoint`` or ``adapter``, ``architecture`` a title or a list of
        those that fit, the rest depends on the kind.

    Raises:
        BadFileError, StorageError: it cannot be read.
        UnsupportedError: it is neither a checkpoint nor an adapter that is known; the message says what it looks like.
    """
    path = adapter_file(Path(path))
    with open_checkpoint(path) as file:
        shapes = file.shapes
    kind = kind_of(shapes)
    if kind is not None and kind.role == "other":
        raise UnsupportedError(f"{path} is {kind.title}, {NEITHER}.", hint=kind.hint)
    if kind is not None and kind.role == "adapter":
        return _adapter(path)
    if kind is not None:
        return _checkpoint(path)
    with suppress(UnsupportedError):  # names of adapters of which not one says by itself that it is one
        return _adapter(path)
    try:
        return _checkpoint(path)
    except UnsupportedError as error:
        if prefixes(shapes) or unsupported(shapes) is not None:
            raise
        first = ", ".join(sorted(shapes)[:3])
        what = f"{path} is {NEITHER} of a known kind: none of its tensors is known ({first}, ...)."
        raise UnsupportedError(what, hint=ONLY_THESE) from error


def _checkpoint(path: Path) -> dict[str, Any]:
    with open_checkpoint(path) as file:
        try:
            architecture = recognise(file.shapes)
        except UnsupportedError as error:
            raise UnsupportedError(f"{path.name}: {error.message}", hint=error.hint) from error
        found, variant, runs = (
            modules(architecture, file.shapes),
            variant_of(architecture, file),
            SAMPLINGS[architecture.id],
        )
        return {
            "schema": SCHEMA,
            "file": path.name,
            "kind": "checkpoint",
            "architecture": architecture.title,
            "tensors": len(file.shapes),
            "dtypes": dict(Counter(file.dtype(key) for key in file.shapes).most_common()),
            "extra_input": variant.input,
            "predicts": variant.prediction,
            "shift": rounded(runs.shift),
            "distilled_guidance": runs.distilled,
            "its_name_says": [it.title for it in named(architecture.family, names_of(path, file.metadata))],
            "modules": dict(Counter(m.position.part for m in found)),
            "notes": list(file.contents.notes),
        }


def _adapter(path: Path) -> dict[str, Any]:
    with open_adapter(path) as adapter:
        description, idle = describe(adapter), _changes_nothing(adapter)
    hints = source_hints(adapter.metadata)
    found = identify(adapter)
    return {
        "schema": SCHEMA,
        "file": path.name if config_beside(path) is None else f"{adapter_name(path)}/{path.name}",
        "kind": "adapter",
        "architecture": list(found.titles),
        "supported": not found.unsupported and bool(found.architectures),
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
            "its_name_says": _kinds(found, (hints.name, hints.base_version)),
        },
        "trigger_words": list(hints.trigger_words),
        "transferred_from": adapter.metadata.get(f"{PREFIX}parent_name"),
        "notes": [
            *adapter.header.notes,
            *filter(None, (found.doubt, _strange(found), CHANGES_NOTHING if idle else "")),
        ],
    }


def _kinds(found: Identity, texts: Iterable[str | None]) -> list[str]:
    """Which of the published models of these architectures a checkpoint is by what it is called."""
    called = [text for text in texts if text]
    return list(dict.fromkeys(it.title for a in found.architectures for it in named(a.family, called)))


CHANGES_NOTHING = "Every update in it is zero: it changes nothing."


def _changes_nothing(adapter: Adapter) -> bool:
    """Whether an adapter was never trained; one that makes an update from a weight, or is not read in part, is not asked."""
    groups = adapter.groups.values()
    if not groups or adapter.unsupported or any(group.algorithm.needs_base for group in groups):
        return False
    return all(group.update().norm() == 0 for group in groups)


def _strange(found: Identity) -> str:
    """A sentence about the modules whose names are not known; "" where all are."""
    if not found.strange:
        return ""
    count, title = len(found.strange), " or ".join(found.titles)
    return f"The names of {count} of its modules are not those of {title} (first: {found.strange[0]})."


def identify(adapter: Adapter) -> Identity:
    """What an adapter is for, by its names, shapes and metadata."""
    if not adapter.groups and adapter.unsupported:
        first = adapter.unsupported[0]
        return Identity(doubt=f"Nothing of the adapter can be used. {first.name}: {first.reason}")
    hints = source_hints(adapter.metadata)
    said = [text for text in (hints.base_version, hints.architecture) if text]
    return identity(list(adapter.groups), matrix_shapes(adapter), said)
