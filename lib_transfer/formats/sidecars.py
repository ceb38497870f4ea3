"""The files beside an adapter that the hosts' cards read, carried to the name of a transferred LoRA.

``<stem>.json`` is A1111's user metadata: description, activation text, preferred weight, notes, and the version of the
base, which a transfer makes untrue. Previews, descriptions and ``.civitai.info`` are copied as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.errors import TransferError
from lib_transfer.formats.publish import write_bytes

_PICTURES = ("png", "jpg", "jpeg", "webp", "gif")
PREVIEWS = tuple(ending for kind in _PICTURES for ending in (f".{kind}", f".preview.{kind}"))
"""What follows the stem of an adapter in the names of its previews; the first one that is there is shown."""

_USER_METADATA = ".json"
_ENDINGS = frozenset(
    {
        _USER_METADATA,
        ".txt",
        ".description.txt",
        ".civitai.info",
        *PREVIEWS,
    }
)
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Sidecar:
    """A side file to be made: where from, where to, and its bytes where they differ from the source's (else None)."""

    source: Path
    destination: Path
    data: bytes | None


@dataclass(frozen=True)
class Carried:
    """The side files that are in place now, and a note for each that is not."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def preview_of(adapter: Path) -> Path | None:
    """The preview picture beside ``adapter``; None where there is none."""
    paths = (adapter.with_name(adapter.stem + ending) for ending in PREVIEWS)
    return next((path for path in paths if path.is_file()), None)


def plan_sidecars(
    adapter: str | os.PathLike[str], output: str | os.PathLike[str], *, card_version: str | None, note: str
) -> list[Sidecar]:
    """The side files of ``adapter`` that ``output`` should have; nothing is written.

    Args:
        adapter: the parent file.
        output: the transferred file.
        card_version: ``SD1``, ``SD2``, ``SDXL``: the target as A1111's card names it; None where it has no name for it.
        note: a line for the card's notes.

    Returns:
        In the order of their names; empty when the folder cannot be listed.
    """
    adapter, output = Path(adapter), Path(output)
    try:
        neighbours = sorted(entry.name for entry in adapter.parent.iterdir() if entry.is_file())
    except OSError:
        return []
    plan = []
    for name in neighbours:
        ending = name.removeprefix(adapter.stem)
        if not name.startswith(adapter.stem) or ending.lower() not in _ENDINGS:
            continue
        source = adapter.parent / name
        data = _user_metadata(source, card_version, note) if ending.lower() == _USER_METADATA else None
        plan.append(Sidecar(source, output.with_name(output.stem + ending), data))
    return plan


def carry_sidecars(plan: Sequence[Sidecar]) -> Carried:
    """Make the side files of ``plan``, each whole or not at all, none over a file that is there.

    Nothing is raised: the adapter is in place already, and a missing preview does not undo it.
    """
    results = [(sidecar.destination, *_carry(sidecar)) for sidecar in plan]
    files = tuple(destination for destination, made, _ in results if made)
    return Carried(files, tuple(note for _, _, notes in results for note in notes))


def _carry(sidecar: Sidecar) -> tuple[bool, list[str]]:
    """Whether the side file is in place now, and notes."""
    try:
        data = _bounded(sidecar.source) if sidecar.data is None else sidecar.data
        if _is_there(sidecar.destination, data):
            return True, []
        return True, write_bytes(sidecar.destination, data, overwrite=False)
    except (OSError, TransferError) as error:
        return False, [f"The side file {sidecar.destination.name} was not made: {error}"]


def _user_metadata(source: Path, card_version: str | None, note: str) -> bytes | None:
    """The card's JSON for the copy; None, which copies it as it is, when it is not the object that A1111 writes."""
    try:
        card = json.loads(_bounded(source).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(card, dict):
        return None
    if "sd version" in card:
        card["sd version"] = card_version or "Unknown"
    notes = card.get("notes")
    if notes is None or isinstance(notes, str):
        lines = (notes or "").rstrip("\n").split("\n") if notes else []
        card["notes"] = "\n".join(lines if note in lines else [*lines, note])
    text = json.dumps(card, indent=4, ensure_ascii=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(card, indent=4).encode("ascii")


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise OSError(f"{path.name} is larger than {MAX_BYTES >> 20} MB")
    return path.read_bytes()


def _is_there(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
