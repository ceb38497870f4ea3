"""What a person has: LoRAs, checkpoints, what is known of these files, and the outputs that were made already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lib_transfer.architecture import Architecture, architectures
from lib_transfer.errors import RequestError, StorageError, TransferError
from lib_transfer.formats.checkpoint import checkpoint_stamps
from lib_transfer.formats.identity import stamp
from lib_transfer.library.base import encoders_among
from lib_transfer.library.checkpoints import Checkpoint, SourceMatch, find
from lib_transfer.library.index import AdapterFacts, CheckpointFacts, FileIndex
from lib_transfer.library.outputs import Outputs
from lib_transfer.progress import SILENT, Progress, check
from lib_transfer.storage.hashes import Hashes


@dataclass
class Library:
    """Everything that :func:`lib_transfer.library.decide.decide` looks things up in, for one job.

    Attributes:
        index: what the headers of files say, remembered.
        hashes: content hashes, remembered.
        folders: the folders in which no two LoRAs may share a file name, because WebUIs know them by it.
        checkpoints: the installed checkpoints.
        outputs: what was made already; None where that plays no part.
        beside: files that the program loads beside every checkpoint, text encoders among them.
        hash_sources: whether a checkpoint that is not hashed yet may be, to find the source of a LoRA.
        progress: is told the bytes of files that are hashed, and asked whether to stop.
        given: names of outputs that were decided on and are not written yet, without ending and casefolded.
    """

    index: FileIndex
    hashes: Hashes
    folders: tuple[Path, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    outputs: Outputs | None = None
    beside: tuple[Path, ...] = ()
    hash_sources: bool = True
    progress: Progress = SILENT
    given: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._known = list(self.checkpoints)

    def look(self) -> None:
        """Go through the folders for outputs.

        Raises:
            CancelledError: it was stopped meanwhile.
        """
        if self.outputs is not None:
            self.outputs.look(self.folders, lambda: check(self.progress))

    def adapter(self, path: Path) -> AdapterFacts:
        """What the header of a LoRA says."""
        facts = self.index.adapter(path)
        return _not_there(path) if facts is None else facts

    def source(self, facts: AdapterFacts) -> SourceMatch:
        """The installed checkpoint that a LoRA was trained on.

        Where it asks for a content hash that no checkpoint is known to have, those that are not hashed yet are hashed, if
        they may be.

        Raises:
            CancelledError: it was stopped while hashing.
        """
        wanted = facts.source_sha256
        if wanted and self.hash_sources and not any(c.sha256 and c.sha256.startswith(wanted) for c in self._known):
            for place, checkpoint in enumerate(self._known):
                about = self.index.checkpoint(checkpoint.path) if checkpoint.sha256 is None else None
                if about is not None and about.architecture in facts.architectures:
                    digest = self.hashes.sha256(checkpoint.path, self.progress)
                    self._known[place] = dataclasses.replace(checkpoint, sha256=digest)
                    if digest.startswith(wanted):
                        break
        return find(facts, self._known)

    def architecture(self, checkpoint: Checkpoint, role: str) -> str:
        """The title of the architecture of a checkpoint.

        Args:
            checkpoint: the checkpoint.
            role: what the message calls it, such as "The target".

        Raises:
            RequestError: it is no checkpoint that can be used.
            StorageError: the system does not let us read it.
        """
        if checkpoint.architecture:
            return architecture_of(checkpoint.architecture).title
        facts = self.index.checkpoint(checkpoint.path)
        if facts is None:
            facts = CheckpointFacts("", *_why_not(lambda: checkpoint_stamps(checkpoint.path)))
        if facts.problem:
            kind = StorageError if facts.exit_code == StorageError.exit_code else RequestError
            raise kind(f"{role} {checkpoint.path.name} cannot be used: {facts.problem}", hint="Choose another one.")
        return facts.architecture

    def with_encoders(self, checkpoint: Checkpoint) -> Checkpoint:
        """``checkpoint`` with those of the files loaded beside it that are text encoders of it.

        Raises:
            TransferError: text encoders are to be looked for, and the checkpoint cannot be read.
        """
        if not self.beside or checkpoint.architecture:
            return checkpoint
        encoders = encoders_among(checkpoint.path, self.beside)
        return dataclasses.replace(checkpoint, encoders=(*checkpoint.encoders, *encoders))


def _not_there(path: Path) -> AdapterFacts:
    """What is said of a LoRA that cannot be looked into, and why."""
    if path.is_dir():
        return AdapterFacts(
            problem=f"{path} is a folder, not the file of a LoRA, and not one that PEFT saved a LoRA as."
        )
    problem, exit_code = _why_not(lambda: stamp(path))
    return AdapterFacts(problem=problem, exit_code=exit_code)


def _why_not(look: Callable[[], object]) -> tuple[str, int]:
    """The problem with a file that could not be looked into a moment ago, and the exit code for it."""
    try:
        look()
    except TransferError as error:
        return str(error), error.exit_code
    return "It was not there a moment ago.", TransferError.exit_code


def architecture_of(identifier: str) -> Architecture:
    """The architecture of this id.

    Raises:
        RequestError: there is none.
    """
    known = {it.id: it for it in architectures()}
    if identifier not in known:
        raise RequestError(f"There is no base {identifier[:80]}.", hint=f"There are: {', '.join(known)}.")
    return known[identifier]


def families(*titles: str) -> set[str]:
    """The families of the architectures of these titles; within a family, weights correspond to each other."""
    return {architecture.family for architecture in architectures() if architecture.title in titles}
