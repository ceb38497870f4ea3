"""The installed checkpoints, and which of them a LoRA was trained on, from what its metadata says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.errors import RequestError, TransferError
from lib_transfer.formats.identity import legacy_a1111_hash

if TYPE_CHECKING:
    from lib_transfer.library.index import AdapterFacts
    from lib_transfer.storage.hashes import Hashes

ENDINGS = (".safetensors", ".ckpt", ".gguf")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is installed.

    Attributes:
        name: what it goes by in lists; unique.
        path: the file.
        sha256: the hash of the file's contents, where it is known without reading the file.
        legacy_hash: the old eight-digit hash, where known.
        encoders: text encoders in files of their own that belong to it.
        architecture: the id of an architecture, for a target that stands for it and has no file: there only names and layout
            change.
    """

    name: str
    path: Path
    sha256: str | None = None
    legacy_hash: str | None = None
    encoders: tuple[Path, ...] = ()
    architecture: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The checkpoint's file, then those of its text encoders; none where it stands for an architecture."""
        return () if self.architecture else (self.path, *self.encoders)


@dataclass(frozen=True)
class SourceMatch:
    """The source of a LoRA.

    Attributes:
        checkpoint: the installed one; None where it is not installed or nothing is said.
        by: what it was found by; "" where it was not.
        asks_for: what the metadata asks for, in words; "" where it says nothing.
    """

    checkpoint: Checkpoint | None
    by: str
    asks_for: str


def installed(folder: Path, hashes: Hashes) -> tuple[Checkpoint, ...]:
    """Every checkpoint file in ``folder`` and below; hashes of whole files only where they are remembered.

    Raises:
        RequestError: the folder is not there, or holds none.
    """
    hint = "Name the folder that the checkpoints lie in."
    if not folder.is_dir():
        raise RequestError(f"The folder {folder} does not exist.", hint=hint)
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in ENDINGS and p.is_file()]
    if not found:
        raise RequestError(f"There is no checkpoint in {folder}.", hint=hint)
    return tuple(described((path,), hashes, name=path.relative_to(folder).as_posix()) for path in found)


def described(files: Sequence[Path], hashes: Hashes, *, name: str = "") -> Checkpoint:
    """The checkpoint ``files[0]`` with its text encoders ``files[1:]``; nothing more is known of one that cannot be read."""
    path, *encoders = files
    made = Checkpoint(name or path.name, path, encoders=tuple(encoders))
    try:
        return dataclasses.replace(made, sha256=hashes.recalled(path), legacy_hash=legacy_a1111_hash(path))
    except TransferError:
        return made


def find(facts: AdapterFacts, installed: Iterable[Checkpoint]) -> SourceMatch:
    """The installed checkpoint that ``facts`` ask for.

    The content hash decides where both sides know it. The old eight-digit hash covers 64 KB only, and a name is just a
    name, so these find a checkpoint only where its content hash does not speak against it.
    """
    installed = list(installed)
    asks_for = _asks_for(facts)
    wanted = facts.source_sha256
    if wanted:
        for checkpoint in installed:
            if checkpoint.sha256 and checkpoint.sha256.startswith(wanted):
                return SourceMatch(checkpoint, "its SHA-256", asks_for)
    possible = [c for c in installed if not (wanted and c.sha256)]
    named = [c for c in possible if facts.source_name and _stem(c.path.name) == _stem(facts.source_name)]
    if facts.source_legacy_hash:
        hashed = [c for c in possible if c.legacy_hash == facts.source_legacy_hash]
        both = [c for c in hashed if c in named]
        if both or hashed:
            return SourceMatch((both or hashed)[0], "its old hash", asks_for)
        # A known old hash that differs speaks against a checkpoint of the same name.
        named = [c for c in named if not c.legacy_hash]
    return SourceMatch(named[0], "its name alone", asks_for) if named else SourceMatch(None, "", asks_for)


def doubts(facts: AdapterFacts, source: Checkpoint | None, sha256: str | None) -> tuple[str, ...]:
    """What speaks against the source that was taken, whose contents have the hash ``sha256``."""
    if source is None or sha256 is None:
        return ()
    if not facts.source_sha256:
        return (f"The LoRA does not say by its contents which checkpoint it was trained on; {source.name} was taken.",)
    if sha256.startswith(facts.source_sha256):
        return ()
    return (
        f"The LoRA asks for a checkpoint with the SHA-256 {facts.source_sha256[:10]}, but {source.name} has "
        f"{sha256[:10]}: all numbers describe the way from {source.name}.",
    )


def _stem(name: str) -> str:
    """A checkpoint's file name without ending, for comparing."""
    stem = name.casefold()
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    return stem


def _asks_for(facts: AdapterFacts) -> str:
    hashes = [f"SHA-256 {facts.source_sha256[:10]}" if facts.source_sha256 else ""]
    hashes += [f"old hash {facts.source_legacy_hash}" if facts.source_legacy_hash and not facts.source_sha256 else ""]
    known = ", ".join(text for text in hashes if text)
    if facts.source_name:
        return f"{facts.source_name} ({known})" if known else facts.source_name
    return f"a checkpoint of {known}" if known else ""
