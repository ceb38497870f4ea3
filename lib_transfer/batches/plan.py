"""The plan of a batch: which adapters will be converted, and what keeps each of the others from it. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.architecture import architectures
from lib_transfer.batches.request import BatchRequest
from lib_transfer.conversion.outcome import Outcome, Status, summary_in
from lib_transfer.errors import CancelledError, RequestError, TransferError, UnsupportedError
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.destination import Destination
from lib_transfer.library.found import Found
from lib_transfer.library.index import AdapterFacts, FileIndex
from lib_transfer.library.naming import Names
from lib_transfer.library.outputs import Outputs
from lib_transfer.library.source_checkpoint import Checkpoint
from lib_transfer.library.sources import Sources
from lib_transfer.progress import Progress, check
from lib_transfer.storage.hashes import Hashes


@dataclass(frozen=True)
class Item:
    """An adapter that will be converted.

    Attributes:
        name, path: of the file.
        facts: what its header says.
        source: the checkpoint that it was trained on; None where the method needs none.
        destination: where the output goes.
        size: bytes of the file.
    """

    name: str
    path: Path
    facts: AdapterFacts
    source: Checkpoint | None
    destination: Destination
    size: int


@dataclass(frozen=True)
class BatchPlan:
    """What a batch will do.

    Attributes:
        batch: what was asked for.
        facts: what the header of every file says, by name, in the order of the names; transferred copies are not among
            them unless they were asked for.
        items: what will be converted.
        settled: what became of the others already, by name.
        taken: the file names in the folders, without ending and casefolded.
        copies: how many transferred copies were passed over.
    """

    batch: BatchRequest
    facts: Mapping[str, AdapterFacts]
    items: tuple[Item, ...]
    settled: dict[str, Outcome]
    taken: frozenset[str]
    copies: int


class _SettledError(Exception):
    """Carries a status and a sentence out of the decisions about one adapter."""

    def __init__(self, status: Status, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.path = status, message, path


def plan(
    found: Sequence[Found],
    batch: BatchRequest,
    *,
    index: FileIndex,
    hashes: Hashes,
    progress: Progress,
    hash_sources: bool = True,
    wanted: Callable[[AdapterFacts], bool] = lambda _: True,
) -> BatchPlan:
    """Look into every file, and decide.

    Args:
        found: the files.
        batch: what is asked for.
        index: what headers say, remembered.
        hashes: content hashes, remembered. An adapter is hashed only where an output of an adapter of its name is there.
        progress: is told of every file.
        wanted: whether a file with these facts counts; the others are not looked at any further.
        hash_sources: whether a checkpoint that is not hashed yet may be, to find the source of an adapter.

    Raises:
        RequestError: the target is no checkpoint that can be used, or the settings are none of the method.
        CancelledError: the person asked to stop.
    """
    progress.start(len(found), "looking into the LoRAs")
    outputs = Outputs.within(batch.tree, index, lambda: check(progress))
    sources = Sources(batch.installed, index, hashes if hash_sources else None, progress.cancelled)
    decide = _Decisions(batch, index, hashes, outputs, Names(outputs, batch), sources, progress.cancelled)
    facts: dict[str, AdapterFacts] = {}
    items: list[Item] = []
    settled: dict[str, Outcome] = {}
    copies = 0
    for each in found:
        check(progress)
        about = index.adapter(each.path) or AdapterFacts(problem=f"{each.path.name} is gone.")
        progress.step(each.name)
        if not wanted(about):
            continue
        if about.parent is not None and not batch.copies:
            copies += 1
            continue
        facts[each.name] = about
        made = decide(each, about)
        if isinstance(made, Item):
            items.append(made)
        else:
            settled[each.name] = made
    return BatchPlan(batch, facts, tuple(items), settled, frozenset(outputs.stems), copies)


class _Decisions:
    """What to do with each file of one batch."""

    def __init__(
        self,
        batch: BatchRequest,
        index: FileIndex,
        hashes: Hashes,
        outputs: Outputs,
        names: Names,
        sources: Sources,
        cancelled: Callable[[], bool],
    ) -> None:
        self._batch, self._index, self._hashes = batch, index, hashes
        self._outputs, self._names, self._sources, self._cancelled = outputs, names, sources, cancelled
        self._architecture = self._target_architecture()

    def __call__(self, found: Found, facts: AdapterFacts) -> Item | Outcome:
        """The item to convert, or the outcome already."""
        source: Checkpoint | None = None
        try:
            self._need_a_lora_for_the_target(facts)
            source = self._source(facts)
            destination = self._destination(found, source)
            size = os.stat(found.path).st_size  # noqa: PTH116 - as the path is
            return Item(found.name, found.path, facts, source, destination, size)
        except _SettledError as settled:
            summary = summary_in(read_header(settled.path).metadata) if settled.path is not None else None
            return self._outcome(found, source, settled.status, settled.message, summary=summary, path=settled.path)
        except CancelledError:
            raise
        except TransferError as error:
            return self._outcome(found, source, "failed", error.message, hint=error.hint)
        except OSError as error:
            return self._outcome(found, source, "failed", f"{found.path} cannot be looked at: {error.strerror}.")

    def _target_architecture(self) -> str:
        target = self._batch.target
        facts = self._index.checkpoint(target.path)
        if facts is None or facts.problem:
            problem = facts.problem if facts is not None else "It does not exist, or cannot be read."
            raise RequestError(
                f"The target {target.path.name} cannot be used: {problem}", hint="Choose another target."
            )
        return facts.architecture

    def _need_a_lora_for_the_target(self, facts: AdapterFacts) -> None:
        if facts.problem:
            raise _SettledError("left out" if facts.foreign else "failed", facts.problem)
        if _kin(self._architecture).isdisjoint(_kin(*facts.architectures)):
            base = facts.base if facts.architectures else "a base that is not known"
            raise _SettledError("left out", f"It is for {base}, the target is {self._architecture}.")

    def _source(self, facts: AdapterFacts) -> Checkpoint | None:
        batch = self._batch
        if not batch.how.needs_source:
            return None
        source = batch.source
        if source is None:
            match = self._sources.of(facts)
            source = match.checkpoint
            if source is None:
                asks = f"It asks for {match.asks_for}, which" if match.asks_for else "Its metadata names none, so it"
                raise RequestError(
                    f"The checkpoint that it was trained on is not known. {asks} was not found.",
                    hint="Name the nearest relative as the source, or take the method reuse, which does without.",
                )
            if source.path == batch.target.path:
                raise _SettledError("left out", f"It was trained on the target itself, {batch.target.name}.")
        known = self._index.checkpoint(source.path)
        if known is None or known.problem:
            raise RequestError(f"Its source {source.name} cannot be used: {known.problem if known else 'it is gone.'}")
        if _kin(known.architecture) != _kin(self._architecture):
            raise UnsupportedError(
                f"Its source {source.name} is {known.architecture}, the target {self._architecture}."
            )
        return source

    def _destination(self, found: Found, source: Checkpoint | None) -> Destination:
        batch = self._batch
        folder = found.path.parent if batch.output is None else batch.output / found.below
        request = None
        # Reading a whole file to hash it is put off to the conversion, where nothing is there that depends on it.
        if self._names.need_request or found.path.stem in self._outputs.copies:
            request = batch.of(found.path, source, self._hashes, self._cancelled)
        copies = self._outputs.of(request) if request is not None else []
        intact = [path for path in copies if self._index.intact(path)]
        if intact:
            raise _SettledError("already done", "", intact[0])
        return self._names.destination(folder, request, copies)

    def _outcome(self, found: Found, source: Checkpoint | None, status: Status, message: str, **more: Any) -> Outcome:
        source_name = source.name if source else ""
        return Outcome(found.name, source_name, self._batch.target.name, status, message, **more)


def _kin(*titles: str) -> set[str]:
    """What the architectures of these titles stem from: those that stem from one have weights that correspond."""
    return {architecture.family for architecture in architectures() if architecture.title in titles}
