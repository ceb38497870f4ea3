"""What is known of the transferred LoRAs in the LoRA folders: how they were made, and whether they can be made again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer import methods
from lib_transfer.errors import TransferError
from lib_transfer.formats.metadata import MATCH, PREFIX
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.formatting import size as in_bytes
from lib_transfer.storage.hashes import Hashes
from lib_transfer.webui.app.trash import side_files, size_of
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.transfer.work import runtime


@dataclass(frozen=True)
class Copy:
    """A transferred LoRA.

    Attributes:
        path: the file.
        request: what it says that it is the result of.
        gain: its gain on the target, where it was verified.
        missing: what is not installed and would be needed to make it again: its parent, its source, its target.
        searched: whether it is the result of a search for a better LoRA, which takes hours and is not repeated exactly.
    """

    path: Path
    request: Mapping[str, Any]
    gain: float | None
    missing: tuple[str, ...]
    searched: bool

    @property
    def again(self) -> bool:
        """Whether it can be made again from what is installed."""
        return not self.missing and not self.searched

    def facts(self) -> str:
        """Size, date, origin, worth, and whether it can be made again, in words."""
        size, made = size_of([self.path, *side_files(self.path)]), ""
        with contextlib.suppress(OSError):
            made = time.strftime(", made %Y-%m-%d", time.localtime(self.path.stat().st_mtime))
        source, target = _name(self.request, "source"), _name(self.request, "target")
        origin = f"from {_name(self.request, 'adapter')}{f', {source}' if source else ''} to {target}"
        worth = "not verified" if self.gain is None else f"gain {self.gain:.2f}"
        return "; ".join((f"{in_bytes(size)}{made}", origin, worth, self._verdict()))

    def _verdict(self) -> str:
        if self.searched:
            return "made by a search, which is expensive to repeat"
        if self.missing:
            return f"cannot be made again: not installed: {', '.join(self.missing)}"
        return "can be made again"


def copies(host: Host, adapters: Mapping[str, Path]) -> dict[str, Copy]:
    """The transferred LoRAs among ``adapters``, by name."""
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for name, path in adapters.items():
        with contextlib.suppress(TransferError):
            metadata = read_header(path).metadata if path.suffix.lower() == ".safetensors" else {}
            request = _object(metadata.get(f"{PREFIX}request"))
            if request:
                found[name] = request, metadata
    hashes = runtime(host).hashes
    parents = {_name(request, "adapter").casefold() for request, _ in found.values()}
    originals = {path for name, path in adapters.items() if name not in found}
    known = _checkpoints(host, hashes) | {_hash(hashes, p, p.stem.casefold() in parents) for p in originals}
    return {name: _copy(adapters[name], request, metadata, known) for name, (request, metadata) in found.items()}


def _copy(path: Path, request: dict[str, Any], metadata: Mapping[str, str], known: set[str | None]) -> Copy:
    missing = []
    for role, words in (("adapter", "its parent LoRA"), ("source", "its source"), ("target", "its target")):
        of = request.get(role)
        if role == "source" and of is None:
            continue  # the method needs none
        if role == "target" and isinstance(of, dict) and "architecture" in of:
            continue  # it stays on its base, and only names and layout were changed
        needed = [of.get("sha256"), *_list(of.get("encoders"))] if isinstance(of, dict) else [None]
        if not all(isinstance(digest, str) and digest in known for digest in needed):
            missing.append(words)
    method = str(request.get("method"))
    searched = methods.FORMER_IDS.get(method, method) not in {each.id for each in methods.METHODS}
    return Copy(path, request, _gain(path, metadata), tuple(missing), searched)


def _checkpoints(host: Host, hashes: Hashes) -> set[str | None]:
    """The content hashes of checkpoints and text encoders, as far as they are known: hashing them takes long."""
    listed = list(host.checkpoints().values())
    files = [*(checkpoint.path for checkpoint in listed), *host.encoders()]
    return {checkpoint.sha256 for checkpoint in listed} | {_hash(hashes, path, compute=False) for path in files}


def _hash(hashes: Hashes, path: Path, compute: bool) -> str | None:
    with contextlib.suppress(TransferError):
        return hashes.sha256(path) if compute else hashes.recalled(path)
    return None


def _gain(path: Path, metadata: Mapping[str, str]) -> float | None:
    """The gain of the file: under its own name where it was verified, else that of the best, which it was made as."""
    for key in (MATCH, f"{PREFIX}report"):
        facts = _object(metadata.get(key))
        gains = facts.get("gains")
        if isinstance(gains, dict):
            own = gains.get(path.stem, gains.get(facts.get("best")) if key != MATCH else None)
            value = own.get("gain") if isinstance(own, dict) else None
            if isinstance(value, int | float):
                return float(value)
    return None


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object in the metadata of a file, which anyone may have made; an empty one for anything else."""
    try:
        content = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _name(request: Mapping[str, Any], role: str) -> str:
    of = request.get(role)
    # In one line without two blanks, which a line of a list has between a name and the facts.
    return " ".join(str(of.get("name") or "").split())[:80] if isinstance(of, dict) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
