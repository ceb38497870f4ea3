"""The checkpoints that a batch's adapters were trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from lib_transfer.errors import RequestError, TransferError
from lib_transfer.formats.identity import legacy_a1111_hash
from lib_transfer.library.index import AdapterFacts, FileIndex
from lib_transfer.library.source_checkpoint import Checkpoint, SourceMatch, find
from lib_transfer.storage.hashes import Hashes

_ENDINGS = (".safetensors", ".ckpt", ".gguf")


def installed(folder: Path, hashes: Hashes) -> tuple[Checkpoint, ...]:
    """Every checkpoint file in ``folder`` and below; hashes of whole files only where they are remembered.

    Raises:
        RequestError: the folder is not there, or holds none.
    """
    if not folder.is_dir():
        raise RequestError(f"The folder {folder} does not exist.", hint="Name the folder that the checkpoints lie in.")
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in _ENDINGS and p.is_file()]
    if not found:
        raise RequestError(f"There is no checkpoint in {folder}.", hint="Name the folder that the checkpoints lie in.")
    return tuple(described(path, path.relative_to(folder).as_posix(), hashes) for path in found)


def described(path: Path, name: str, hashes: Hashes) -> Checkpoint:
    """The checkpoint at ``path`` with what is known of it; nothing is known of one that cannot be read."""
    try:
        return Checkpoint(name, path, hashes.recalled(path), legacy_a1111_hash(path))
    except TransferError:
        return Checkpoint(name, path)


class Sources:
    """Finds each adapter's source.

    Args:
        checkpoints: those at hand.
        index: what their headers say.
        hashes: for the content hash of a checkpoint that is not known yet, where an adapter asks for one that no known
            checkpoint has; None to do without, because it reads whole files.
        cancelled: asked meanwhile whether to stop.
    """

    def __init__(
        self, checkpoints: Sequence[Checkpoint], index: FileIndex, hashes: Hashes | None, cancelled: Callable[[], bool]
    ) -> None:
        self._known = list(checkpoints)
        self._index = index
        self._hashes = hashes
        self._cancelled = cancelled

    def of(self, facts: AdapterFacts) -> SourceMatch:
        """The source that ``facts`` ask for.

        Raises:
            CancelledError: it was stopped while hashing.
        """
        wanted = facts.source_sha256
        if wanted and self._hashes is not None and not self._has(wanted):
            for place, checkpoint in enumerate(self._known):
                if checkpoint.sha256 is None and self._may_be(checkpoint, facts):
                    digest = self._hashes.sha256(checkpoint.path, self._cancelled)
                    self._known[place] = dataclasses.replace(checkpoint, sha256=digest)
                    if digest.startswith(wanted):
                        break
        return find(facts, self._known)

    def _has(self, wanted: str) -> bool:
        return any(checkpoint.sha256 and checkpoint.sha256.startswith(wanted) for checkpoint in self._known)

    def _may_be(self, checkpoint: Checkpoint, facts: AdapterFacts) -> bool:
        known = self._index.checkpoint(checkpoint.path)
        return known is not None and known.architecture in facts.architectures
