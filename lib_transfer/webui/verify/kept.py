"""The verifications that transferred LoRAs keep in their metadata, found again by the LoRA that they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.errors import TransferError
from lib_transfer.evaluation.record import Record, records_in
from lib_transfer.formats.peft_folder import adapter_name
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.index import FileIndex
from lib_transfer.library.outputs import Outputs
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.transfer.work import runtime


@dataclass(frozen=True)
class Verified:
    """One verification for the page.

    Attributes:
        lora: the name of the LoRA.
        target: the name of the target.
        record: what came out.
    """

    lora: str
    target: str
    record: Record


class KeptVerifications:
    """What the outputs in the LoRA folders keep. It is gone with the output, and comes with it wherever that is moved.

    Args:
        host: the program.
        index: what the files' headers say, remembered on disk, so that only new files are read.
    """

    def __init__(self, host: Host, index: FileIndex) -> None:
        self._host = host
        self._outputs = Outputs(index)

    def first(self, originals: Mapping[str, Path], target: Checkpoint) -> tuple[Verified, ...]:
        """Those of the first LoRA that has any for a target, the last one first.

        Args:
            originals: the files of LoRAs, by their names on the page.
            target: the checkpoint.
        """
        if originals:
            self._outputs.look(self._host.adapter_folders())
        found = (self._found(name, path, target) for name, path in originals.items())
        return next(filter(None, found), ())

    def _found(self, name: str, original: Path, target: Checkpoint) -> tuple[Verified, ...]:
        """Those of all outputs that were made from a LoRA for a target."""
        adapter = adapter_name(original)
        outputs = self._outputs.of_adapter(adapter)
        known = self._hash(original) if outputs else None
        paths = [
            path
            for path, request in outputs
            if _is(request, "adapter", adapter, known) and _is(request, "target", target.path.stem, target.sha256)
        ]
        return tuple(each for path in _newest_first(paths) for each in self.of(name, path, target.name))

    def of(self, name: str, output: Path, target: str) -> tuple[Verified, ...]:
        """Those of one output, the last one first; none where it cannot be read or was never verified."""
        try:
            records = records_in(read_header(output).metadata)
        except TransferError:
            return ()
        return tuple(Verified(name, target, record) for record in records)

    def _hash(self, path: Path) -> str | None:
        """The hash of a LoRA where it is remembered; that of a folder is none of a file's."""
        try:
            return None if path.is_dir() else runtime(self._host).hashes.recalled(path)
        except TransferError:
            return None


def with_kept(fresh: Verified, kept: Sequence[Verified]) -> tuple[Verified, ...]:
    """A verification that was just made, before those that are kept under other conditions."""
    others = (each for each in kept if each.record.conditions != fresh.record.conditions)
    return (fresh, *others)


def _is(request: str, role: str, name: str, sha256: str | None) -> bool:
    """Whether a request names a file in a role: by its contents where they are known, else by its name."""
    identity: Mapping[str, Any] = json.loads(request)
    of = identity.get(role)
    if not isinstance(of, dict):
        return False
    return of.get("sha256") == sha256 if sha256 is not None else of.get("name") == name


def _newest_first(paths: Sequence[Path]) -> list[Path]:
    return sorted(paths, key=_changed, reverse=True)


def _changed(path: Path) -> float:
    """When a file was last written, which noting a verification does; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
