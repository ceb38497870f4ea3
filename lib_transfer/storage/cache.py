"""The cache on disk: decompositions of weights, what is known of pairs of them, and what runs of the models gave.

An entry is a small safetensors file of its own, written whole or not at all, so that any number of processes may share a
folder. Every tensor has a checksum per row beside it; an entry that is damaged, or was made by another version of the
mathematics, is as good as none. Entries are named after the contents they belong to (:func:`entry_key`), so a changed
checkpoint is never served an old one. The total is bounded: the least recently used go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib_transfer.formats.publish import part_name, sweep
from lib_transfer.storage.memory import FileMemory

VERSION = 2
"""Version of the mathematics behind the entries; a new one makes all old entries unknown."""

KINDS = ("weights", "similarities", "principal", "pictures", "imitations")
"""The folders of entries: one per weight, one per pair of weights, one per pair and subspace rank; pictures of a checkpoint and
what checkpoints predict of them; and what a training that has not ended goes on from."""

FOLDER_VARIABLE = "TRANSFER_LORA_CACHE"
DEFAULT_LIMIT = 20 * 2**30

# Only files named like this are ever removed: the folder may be one that holds other things too.
_ENTRY_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")


def default_folder() -> Path:
    """``TRANSFER_LORA_CACHE``, or ``transfer-lora`` in the user's cache folder."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE]).expanduser()
    variable, usual = ("LOCALAPPDATA", "~") if os.name == "nt" else ("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get(variable) or usual).expanduser() / "transfer-lora"


def entry_key(*parts: object) -> str:
    """Name of the entry that belongs to ``parts``: SHA-256 over them and :data:`VERSION`, in hex."""
    return hashlib.sha256(json.dumps([VERSION, *map(str, parts)]).encode()).hexdigest()


@dataclass(frozen=True)
class Contents:
    """What a cache folder holds."""

    folder: Path
    entries: dict[str, int]
    bytes: dict[str, int]
    limit: int

    @property
    def total_bytes(self) -> int:
        """Size of all entries."""
        return sum(self.bytes.values())


class Cache:
    """Entries in a folder.

    Args:
        folder: created when the first entry is written.
        limit: bytes that the entries may take together; :meth:`prune` brings them back under it.

    Attributes:
        problem: why entries are not kept, once one could not be written; a sentence for the person.
    """

    def __init__(self, folder: Path, *, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit
        self.problem: str | None = None

    def path(self, kind: str, key: str) -> Path:
        """Where the entry of this kind (one of :data:`KINDS`) and key lies."""
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def get(
        self, kind: str, key: str, rows: Mapping[str, int] | None = None, only: str | None = None
    ) -> dict[str, Tensor] | None:
        """The tensors of an entry, or None when there is none that can be trusted.

        Args:
            kind, key: what the entry was stored under.
            rows: the number of leading rows to read, by the name of the tensor; other tensors are read whole.
            only: name of the one tensor to read.
        """
        path = self.path(kind, key)
        entry = self._sound(path, rows or {}, only)
        if entry is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return entry

    def _sound(self, path: Path, rows: Mapping[str, int], only: str | None) -> dict[str, Tensor] | None:
        """The entry at ``path``; a damaged one is removed."""
        try:
            entry = _read(path, rows, only)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError):
            entry = None
        if entry is None:
            with contextlib.suppress(OSError):
                path.unlink()
        return entry

    def put(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store an entry; an older one of the same key is replaced.

        Best effort: without it the next run takes longer, nothing else. After a failure, which :attr:`problem` tells,
        nothing more is tried.
        """
        if self.problem is not None:
            return
        path = self.path(kind, key)
        part = part_name(path)
        cpu = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        cpu |= {f"check.{name}": _checks(t) for name, t in cpu.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(cpu, part)
            part.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                part.unlink()
            self.problem = (
                f"The cache folder {self.folder} cannot be written ({error}), so the next transfer will not be faster. "
                f"Free some space, or choose another folder with --cache-dir or {FOLDER_VARIABLE}."
            )

    def drop(self, kind: str, key: str) -> None:
        """Remove an entry, if there is one."""
        with contextlib.suppress(OSError):
            self.path(kind, key).unlink()

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every entry as (kind, path)."""
        for kind in KINDS:
            for path in sorted((self.folder / kind).glob("??/*.safetensors")):
                if _ENTRY_NAME.fullmatch(path.name):
                    yield kind, path

    def contents(self) -> Contents:
        """How many entries of each kind there are, and their sizes."""
        entries: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for kind, path in self.files():
            with contextlib.suppress(OSError):
                sizes[kind] = sizes.get(kind, 0) + path.stat().st_size
                entries[kind] = entries.get(kind, 0) + 1
        return Contents(self.folder, entries, sizes, self.limit)

    def check(self) -> tuple[int, list[Path]]:
        """Read every entry whole and remove those that are damaged.

        Returns:
            How many are sound, and the paths of those removed.
        """
        sound, removed = 0, []
        for _, path in self.files():
            if self._sound(path, {}, None) is None:
                removed.append(path)
            else:
                sound += 1
        return sound, removed

    def prune(self) -> int:
        """Remove the least recently used entries until the rest fits the limit; returns the bytes freed.

        What killed processes left half-written goes too.
        """
        for folder in (f for kind in KINDS for f in (self.folder / kind).glob("??")):
            sweep(folder)
        FileMemory(self.folder).prune()
        aged = []
        for _, path in self.files():
            with contextlib.suppress(OSError):
                stat = path.stat()
                aged.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in aged)
        freed = 0
        for _, size, path in sorted(aged):
            if total - freed <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                freed += size
        return freed

    def clear(self) -> int:
        """Remove every entry and everything that is remembered of files; returns the bytes that entries took."""
        freed = self.contents().total_bytes
        for _, path in self.files():
            with contextlib.suppress(OSError):
                path.unlink()
        FileMemory(self.folder).clear()
        return freed


def _read(path: Path, rows: Mapping[str, int], only: str | None) -> dict[str, Tensor] | None:
    """The entry at ``path``, or None when a checksum does not hold."""
    with safe_open(path, framework="pt") as file:
        tensors = {}
        for name in [only] if only else [n for n in file.keys() if not n.startswith("check.")]:  # noqa: SIM118
            stored = file.get_tensor(name)[: rows.get(name)]
            if not torch.equal(_checks(stored), file.get_tensor(f"check.{name}")[: rows.get(name)]):
                return None
            # A copy in torch's own memory, which is aligned: a file's is not, and the last bits of products depend on it.
            tensors[name] = stored.clone()
    return tensors


def _checks(tensor: Tensor) -> Tensor:
    """A checksum per row (per element of a vector): the wrapping sum of its bytes as whole numbers.

    The sum starts at a number that stands for the dtype and is not 0: zeros that a crash left in the place of data and of
    checksums do not pass for an entry.
    """
    flat = tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))
    wide = flat.shape[1] * flat.element_size() % 8 == 0 and flat.shape[1] > 0
    sums = flat.view(torch.int64 if wide else torch.int32).sum(dim=1, dtype=torch.int64)
    return sums + zlib.crc32(str(tensor.dtype).encode())
