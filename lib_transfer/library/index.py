"""What the headers of files say, remembered on disk, so that thousands of LoRAs are looked into once.

An entry holds for as long as the file's size, modification time and inode stay the same.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from lib_transfer.architecture import Architecture, recognise
from lib_transfer.errors import StorageError, TransferError, UnsupportedError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.adapter_file import outline_adapter
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.description import describe
from lib_transfer.formats.identity import addnet_hash, stamp
from lib_transfer.formats.metadata import DATA_HASH, MATCH, PREFIX, source_hints
from lib_transfer.formats.safetensors_file import header_mentions, read_header
from lib_transfer.library.inspection import identify
from lib_transfer.library.loads import obstacles
from lib_transfer.storage.memory import FileMemory

VERSION = 6

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class AdapterFacts:
    """What a LoRA's header says.

    Attributes:
        architectures: titles of those it fits.
        short_names: the same for lists, such as SDXL.
        algorithms, ranks: most frequent first.
        source_name, source_sha256, source_legacy_hash: the checkpoint it says it was trained on.
        parent: name of the LoRA it was transferred from; None where it is no transferred LoRA.
        dtype: the number format that most of its tensors have.
        doubt: a sentence where its metadata say something else than its modules, or where its names are not known.
        problem: why it cannot be read; "" where it can.
        foreign: whether that is because it is a sound file of another kind, not a LoRA.
        exit_code: what the command line ends with because of the problem.
        obstacles: what keeps the programs from loading it as it is, in sentences.
    """

    architectures: tuple[str, ...] = ()
    short_names: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    source_name: str | None = None
    source_sha256: str | None = None
    source_legacy_hash: str | None = None
    parent: str | None = None
    dtype: str = ""
    doubt: str = ""
    problem: str = ""
    foreign: bool = False
    exit_code: int = TransferError.exit_code
    obstacles: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The base in words."""
        return " or ".join(self.architectures) or "unknown base"

    @property
    def kind(self) -> str:
        """Algorithm and rank in words."""
        algorithm = self.algorithms[0] if len(self.algorithms) == 1 else " and ".join(self.algorithms)
        if not self.ranks:
            return algorithm
        low, high = min(self.ranks), max(self.ranks)
        return f"{algorithm}, rank {low}" if low == high else f"{algorithm}, rank {low} to {high}"

    @property
    def short(self) -> str:
        """For a line of a list."""
        return "not readable" if self.problem else f"{' or '.join(self.short_names) or 'unknown base'}, {self.kind}"


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint's header says: its architecture, or why there is none to tell and the exit code for it."""

    architecture: str = ""
    problem: str = ""
    exit_code: int = TransferError.exit_code


@dataclass(frozen=True)
class OutputFacts:
    """What a LoRA says of itself as an output.

    Attributes:
        request: the request that it is the output of, as its JSON; "" for one that is not ours.
        gain: the gain of what was chosen when the models were run last; None where they were not, or nothing could be judged.
    """

    request: str = ""
    gain: float | None = None


@dataclass(frozen=True)
class ContentFacts:
    """Whether the contents of an output of ours are those it was written with."""

    intact: bool


Facts = TypeVar("Facts", AdapterFacts, CheckpointFacts, OutputFacts, ContentFacts)


class FileIndex:
    """Facts about files, remembered in ``folder`` (see :class:`~.memory.FileMemory`). Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._memory = FileMemory(folder)
        self._scanning = threading.Lock()

    def adapter(self, path: Path, *, known_only: bool = False) -> AdapterFacts | None:
        """The facts of a LoRA; None where it is gone, or not looked into yet and ``known_only``."""
        return self._facts("adapter", path, AdapterFacts, _read_adapter, known_only)

    def checkpoint(self, path: Path, *, known_only: bool = False) -> CheckpointFacts | None:
        """The facts of a checkpoint; None as for :meth:`adapter`. Of a folder nothing is remembered: it has no one state."""
        if path.is_dir():
            return _read_checkpoint(path)
        return self._facts("checkpoint", path, CheckpointFacts, _read_checkpoint, known_only)

    def output(self, path: Path) -> OutputFacts | None:
        """Which request a LoRA is the output of; None where it is gone. Much quicker than :meth:`adapter`."""
        return self._facts("output", path, OutputFacts, _read_output, False)

    def intact(self, path: Path) -> bool:
        """Whether an output of ours is undamaged. Reads the whole file, once for every state it is in."""
        facts = self._facts("content", path, ContentFacts, _read_content, False)
        return facts is not None and facts.intact

    def scan(self, adapters: Iterable[Path], checkpoints: Iterable[Path]) -> None:
        """Look into every file that is not known yet, in a thread of its own; one scan at a time."""
        if self._scanning.acquire(blocking=False):
            work = (list(adapters), list(checkpoints))
            threading.Thread(target=self._scan, args=work, name="transfer-lora-index", daemon=True).start()

    def _scan(self, adapters: list[Path], checkpoints: list[Path]) -> None:
        try:
            for path in checkpoints:
                self.checkpoint(path)
            for path in adapters:
                self.adapter(path)
        except Exception:
            logger.exception("Transfer LoRA: looking into the LoRA files failed")
        finally:
            self._scanning.release()

    def _facts(
        self, kind: str, path: Path, facts: type[Facts], read: Callable[[Path], Facts], known_only: bool
    ) -> Facts | None:
        try:
            now = stamp(path.absolute())
        except TransferError:
            return None
        # The version of the reader is part of the kind: what an older one said is asked anew.
        kind = f"{kind}/{VERSION}"
        known = _restored(facts, self._memory.get(kind, now))
        if known is not None or known_only:
            return known
        found = read(path)
        if not isinstance(found, AdapterFacts | CheckpointFacts) or found.exit_code != StorageError.exit_code:
            self._memory.put(kind, now, asdict(found))  # a disk that fails now may work the next time
        return found


def _restored(facts: type[Facts], remembered: Any) -> Facts | None:
    """The remembered facts, if they have this form."""
    try:
        values: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in remembered.items()}
        return facts(**values)
    except (AttributeError, TypeError):
        return None


def _read_adapter(path: Path) -> AdapterFacts:
    try:
        adapter = outline_adapter(path)
        about = describe(adapter)
        hints = source_hints(adapter.metadata)
        found = identify(adapter)
        parent = adapter.metadata.get(f"{PREFIX}parent_name") if f"{PREFIX}request" in adapter.metadata else None
        return AdapterFacts(
            architectures=found.titles,
            short_names=tuple(a.id.upper() for a in found.architectures) or found.titles,
            doubt=found.doubt,
            algorithms=tuple(sorted(about.algorithms, key=lambda a: -about.algorithms[a])),
            ranks=tuple(about.ranks),
            source_name=hints.name,
            source_sha256=hints.sha256,
            source_legacy_hash=hints.legacy_hash,
            parent=parent,
            dtype=about.dtype,
            obstacles=() if found.unsupported else _obstacles(adapter, found.architectures),
        )
    except TransferError as error:
        foreign = isinstance(error, UnsupportedError)
        return AdapterFacts(problem=str(error), foreign=foreign, exit_code=error.exit_code)


def _obstacles(adapter: Adapter, architectures: Iterable[Architecture]) -> tuple[str, ...]:
    """What keeps the programs for one of these architectures from loading a LoRA; that of the first where there is any."""
    return next((found for it in architectures if (found := obstacles(adapter, it))), ())


def _read_checkpoint(path: Path) -> CheckpointFacts:
    try:
        with open_checkpoint(path) as file:
            return CheckpointFacts(recognise(file.shapes).title)
    except TransferError as error:
        return CheckpointFacts(problem=str(error), exit_code=error.exit_code)


def _read_output(path: Path) -> OutputFacts:
    try:
        if header_mentions(path, f"{PREFIX}request"):
            metadata = read_header(path).metadata
            return OutputFacts(metadata.get(f"{PREFIX}request", ""), _gain(metadata.get(MATCH, "")))
    except TransferError:
        pass
    return OutputFacts()


def _gain(match: str) -> float | None:
    """The gain of the chosen adapter, from what running the models said; None for anything else: anyone may have written it."""
    try:
        found = json.loads(match or "{}")
        gain = found["gains"][found["best"]]["gain"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return float(gain) if isinstance(gain, int | float) and not isinstance(gain, bool) else None


def _read_content(path: Path) -> ContentFacts:
    try:
        return ContentFacts(addnet_hash(path) == read_header(path).metadata.get(DATA_HASH))
    except TransferError:
        return ContentFacts(False)
