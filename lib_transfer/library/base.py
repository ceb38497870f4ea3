"""A base: a checkpoint that was opened, recognised and divided into modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from lib_transfer.architecture import Architecture, modules, name_index, recognise
from lib_transfer.architecture.architecture import key_layout_in
from lib_transfer.architecture.encoders import Encoder, encoders_in
from lib_transfer.architecture.module import Binding, Module
from lib_transfer.errors import TransferError, UnsupportedError
from lib_transfer.formats.checkpoint import Store, open_checkpoint
from lib_transfer.formats.identity import FileStamp, stamp
from lib_transfer.formats.stores.store import JoinedStore
from lib_transfer.progress import SILENT, Progress
from lib_transfer.storage.hashes import Hashes


@dataclass(frozen=True)
class Base:
    """A checkpoint, divided into modules.

    Attributes:
        path: the path of the file.
        sha256: the SHA-256 of its contents.
        checkpoint: its tensors, on disk.
        architecture: its architecture.
        modules: all its modules, in forward order.
        by_name: modules by canonical name.
        by_adapter_name: what each name that an adapter can use stands for.
        encoders: the SHA-256 of the file, for every tensor that is read from a text encoder in a file of its own.
    """

    path: Path
    sha256: str
    checkpoint: Store
    architecture: Architecture
    modules: tuple[Module, ...]
    by_name: dict[str, Module]
    by_adapter_name: Mapping[str, tuple[Binding, ...]]
    encoders: Mapping[str, str] = field(default_factory=dict)

    def identity(self, module: Module) -> str:
        """The SHA-256 of the file that a module's weight is read from."""
        return self.encoders.get(module.weight, self.sha256)


def open_hashed(paths: Sequence[Path], hashes: Hashes, progress: Progress = SILENT) -> AbstractContextManager[Base]:
    """The checkpoint ``paths[0]`` with text encoders in the other files, as :func:`open_base`.

    Args:
        paths: the files.
        hashes: where their content hashes are remembered.
        progress: is told the bytes that are read to hash those that are not known, and asked whether to stop.

    Raises:
        CancelledError: the person asked to stop.
        BadFileError, StorageError, UnsupportedError: as :func:`open_base`.
    """
    digests = hashes.of(paths, progress)
    first, *encoders = ((path, digests[path]) for path in paths)
    return open_base(*first, encoders)


@contextmanager
def open_base(path: Path, sha256: str, encoders: Sequence[tuple[Path, str]] = ()) -> Iterator[Base]:
    """The checkpoint at ``path`` as a :class:`Base`, closed at the end.

    Args:
        path: the checkpoint.
        sha256: the SHA-256 of its contents.
        encoders: files with a text encoder or several, and their SHA-256. They stand for those of the checkpoint.

    Raises:
        BadFileError, StorageError: a file cannot be read.
        UnsupportedError: it is no checkpoint of a supported architecture, or holds no text encoder of it; the message
            names the file.
    """
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(path))
        with _naming(path):
            architecture = recognise(checkpoint.shapes)
        identities: dict[str, str] = {}
        hidden: set[str] = set()
        others: list[tuple[Store, dict[str, str]]] = []
        for file, digest in encoders:
            store = stack.enter_context(open_checkpoint(file))
            names: dict[str, str] = {}
            for encoder in _need_encoders(architecture, store, file):
                names |= {
                    encoder.key_layout.prefix + key.removeprefix(encoder.found.prefix): key
                    for key in store.shapes
                    if key.startswith(encoder.found.prefix)
                }
                if (key_layout := key_layout_in(encoder.layout, checkpoint.shapes)) is not None:
                    hidden |= {key for key in checkpoint.shapes if key.startswith(key_layout.prefix)}
            others.append((store, names))
            identities |= dict.fromkeys(names, digest)
        joined = JoinedStore(checkpoint, others, hidden) if others else checkpoint
        with _naming(path):
            found = modules(architecture, joined.shapes)
        by_name = {module.name: module for module in found}
        yield Base(path, sha256, joined, architecture, found, by_name, name_index(found), identities)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What is said of a checkpoint names its file."""
    try:
        yield
    except UnsupportedError as error:
        raise UnsupportedError(f"{path.name}: {error.message}", hint=error.hint) from error


def encoders_among(path: Path, files: Sequence[Path]) -> tuple[Path, ...]:
    """Those of ``files`` that hold a text encoder of the checkpoint at ``path``; whatever else they are plays no part.

    Raises:
        BadFileError, StorageError: the checkpoint cannot be read.
        UnsupportedError: it is no checkpoint of a supported architecture.
    """
    return _encoders_among(stamp(path), tuple(map(stamp, files)))


@lru_cache(maxsize=64)
def _encoders_among(checkpoint: FileStamp, files: tuple[FileStamp, ...]) -> tuple[Path, ...]:
    """Asked with every picture, and the same for as long as no file changes."""
    with open_checkpoint(checkpoint.path) as opened, _naming(Path(checkpoint.path)):
        architecture = recognise(opened.shapes)
    found = []
    for file in files:
        with suppress(TransferError), open_checkpoint(file.path) as store:
            if encoders_in(architecture, store.shapes):
                found.append(Path(file.path))
    return tuple(found)


def _need_encoders(architecture: Architecture, store: Store, path: Path) -> tuple[Encoder, ...]:
    with _naming(path):
        encoders = encoders_in(architecture, store.shapes)
        if not encoders:
            wanted = " or ".join(layout.model for layout in architecture.text_encoders)
            raise UnsupportedError(
                f"it is no text encoder of {architecture.title}.", hint=f"Name the checkpoint first, then {wanted}."
            )
        return encoders
