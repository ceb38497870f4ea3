"""The outputs that are there already, found by what they say of themselves, and the names that are taken."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.errors import TransferError
from lib_transfer.formats.identity import addnet_hash
from lib_transfer.formats.metadata import DATA_HASH, PREFIX
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.adapters import walk
from lib_transfer.library.index import FileIndex
from lib_transfer.library.request import TransferRequest, adapter_in, canonical
from lib_transfer.methods import METHODS


def is_done(path: Path, request: TransferRequest) -> bool:
    """Whether ``path`` is the undamaged output of an equal request, by its own metadata and hash."""
    try:
        metadata = read_header(path).metadata
        if canonical(metadata.get(f"{PREFIX}request", "")) != canonical(request.to_json()):
            return False
        return addnet_hash(path) == metadata.get(DATA_HASH)
    except TransferError:
        return False


@dataclass(frozen=True)
class _Seen:
    """A file in the state in which it was looked into, and its request as JSON; "" where it is none of ours."""

    path: Path
    state: tuple[int, int]
    request: str


class Outputs:
    """Every output of ours in the LoRA folders, wherever it lies and whatever it is called. Safe to use from several threads.

    :meth:`look` goes through the folders; a file is read again only when it changed. The other methods answer from that.

    Args:
        index: what the files' headers say, remembered on disk.
    """

    def __init__(self, index: FileIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._by_request: dict[str, list[Path]] = {}
        self._by_adapter: dict[str, list[_Seen]] = {}
        self._stems: set[str] = set()

    def look(self, folders: Iterable[Path], check: Callable[[], None] = lambda: None) -> None:
        """Look into what is new or changed in ``folders`` and below; ``check`` is called between files and may raise."""
        found: dict[str, _Seen] = {}
        for name in dict.fromkeys(name for folder in folders for name in walk(folder)):
            check()
            with contextlib.suppress(OSError):
                found[name] = self._looked(name)
        with self._lock:
            self._seen = found
            self._by_request, self._by_adapter, self._stems = {}, {}, set()
            for seen in found.values():
                self._note(seen)

    def add(self, path: Path) -> None:
        """Take in an output that was just written."""
        with contextlib.suppress(OSError):
            seen = self._looked(str(path))
            with self._lock:
                self._seen[str(path)] = seen
                self._note(seen)
        self._index.intact(path)

    def of(self, request: TransferRequest, usual: Path | None = None) -> list[Path]:
        """Every output that says it is that of an equal request.

        Args:
            request: the request.
            usual: where it would be written to today: nearly always it is there, and nothing else has to be looked at.
        """
        wanted = canonical(request.to_json())
        with self._lock:
            places = list(self._by_request.get(wanted, ()))
        if usual is not None and usual not in places and canonical(self._request(usual)) == wanted:
            with self._lock:
                self._by_request.setdefault(wanted, []).append(usual)
            places.append(usual)
        return [path for path in dict.fromkeys(places) if canonical(self._request(path)) == wanted]

    def others(self, request: TransferRequest, path: Path) -> list[Path]:
        """The output at ``path``, if it is one of the same adapter for another request."""
        wanted = canonical(request.to_json())
        with self._lock:
            known = self._by_adapter.get(request.adapter_name, ())
            return [seen.path for seen in known if seen.path == path and seen.request != wanted]

    def by_models(self, request: TransferRequest) -> list[Path]:
        """Outputs of methods that run models, of the same adapter between the same checkpoints; the largest gain first.

        Args:
            request: a request by any method. Where it needs no source, the source does not count.
        """
        wanted = _between(request.to_json())
        with self._lock:
            known = [
                seen.path for seen in self._by_adapter.get(request.adapter_name, ()) if _fits(seen.request, wanted)
            ]
        facts = {path: self._index.output(path) for path in known}
        gains = {path: it.gain for path, it in facts.items() if it is not None}
        return sorted(gains, key=lambda path: (gains[path] is None, -(gains[path] or 0.0), path))

    def made_from(self, adapter: str) -> bool:
        """Whether there is an output that was made from an adapter of this name."""
        return adapter in self._by_adapter

    def of_adapter(self, adapter: str) -> list[tuple[Path, str]]:
        """Every output that was made from an adapter of this name, each with its request as JSON."""
        with self._lock:
            return [(seen.path, seen.request) for seen in self._by_adapter.get(adapter, ())]

    @property
    def stems(self) -> Set[str]:
        """Every file name in the folders without its ending, casefolded."""
        return self._stems

    def intact(self, path: Path) -> bool:
        """Whether an output is undamaged. Reads the whole file, once for every state it is in."""
        return self._index.intact(path)

    def _looked(self, name: str) -> _Seen:
        status = os.stat(name)  # noqa: PTH116 - thousands of them
        state = (status.st_size, status.st_mtime_ns)
        before = self._seen.get(name)
        if before is not None and before.state == state:
            return before
        path = Path(name)
        return _Seen(path, state, canonical(self._request(path)))

    def _request(self, path: Path) -> str:
        facts = self._index.output(path)
        return facts.request if facts is not None else ""

    def _note(self, seen: _Seen) -> None:
        self._stems.add(seen.path.stem.casefold())
        if seen.request and (adapter := adapter_in(seen.request)) is not None:
            self._by_request.setdefault(seen.request, []).append(seen.path)
            self._by_adapter.setdefault(adapter, []).append(seen)


def _between(text: str) -> dict[str, Any]:
    """The adapter and the checkpoints of a request as JSON; the source only where there is one."""
    identity = json.loads(text)
    return {role: identity[role] for role in ("adapter", "source", "target") if identity[role] is not None}


def _fits(text: str, wanted: Mapping[str, Any]) -> bool:
    """Whether a request as JSON is by a method that runs models, and has what is wanted."""
    identity = json.loads(text)
    if identity.get("method") not in {method.id for method in METHODS if method.runs_models}:
        return False
    return all(identity.get(role) == value for role, value in wanted.items())
