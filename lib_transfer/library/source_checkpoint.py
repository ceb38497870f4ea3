"""Which installed checkpoint a LoRA was trained on, from what its metadata says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.library.index import AdapterFacts


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is installed.

    Attributes:
        name: what it goes by in lists; unique.
        path: of the file.
        sha256: of the file, where it is known without reading the file.
        legacy_hash: the old eight-digit hash, where known.
    """

    name: str
    path: Path
    sha256: str | None = None
    legacy_hash: str | None = None


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
    """What speaks against the source that was taken."""
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
    for ending in (".safetensors", ".ckpt", ".gguf"):
        stem = stem.removesuffix(ending)
    return stem


def _asks_for(facts: AdapterFacts) -> str:
    hashes = [f"SHA-256 {facts.source_sha256[:10]}" if facts.source_sha256 else ""]
    hashes += [f"old hash {facts.source_legacy_hash}" if facts.source_legacy_hash and not facts.source_sha256 else ""]
    known = ", ".join(text for text in hashes if text)
    if facts.source_name:
        return f"{facts.source_name} ({known})" if known else facts.source_name
    return f"a checkpoint of {known}" if known else ""
