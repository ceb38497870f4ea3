"""Comparisons that come back with their LoRA: their pictures and settings, in a folder beside the cache.

There is one file for each LoRA and target, with the last comparison: a line of JSON, then the pictures as JPEG files one after
another. It holds for as long as the LoRA and the transferred LoRA are the files that they were. On a server that others may
see nothing is kept, because whoever chooses the LoRA would be shown somebody else's prompt and pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lib_transfer.errors import TransferError
from lib_transfer.formats.metadata import DATA_HASH
from lib_transfer.formats.publish import sweep, write_bytes
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.compare.form import Scene
from lib_transfer.webui.compare.pictures import ROLES, Shown
from lib_transfer.webui.compare.subject import Subject
from lib_transfer.webui.host.folders import COMPARISONS
from lib_transfer.webui.host.host import Host

MOST_FILES, MOST_BYTES = 50, 256 << 20
"""How much is kept in all; the oldest goes first."""

_LONGEST_LINE = 1 << 20
_ENDING = ".comparison"
_FAILURES = (TransferError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Kept:
    """A comparison that was kept.

    Attributes:
        scene: what its pictures have in common, with the seed that was drawn.
        pictures: the pictures.
    """

    scene: Scene
    pictures: tuple[Shown, ...]


class KeptComparisons:
    """The comparisons of a program."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def put(self, subject: Subject, scene: Scene, pictures: Sequence[Shown]) -> None:
        """Keep the pictures of one LoRA, in place of those of its last comparison on that target.

        One of which a picture could not be made is not kept. One that cannot be written is only logged: it is on the page.
        """
        if self._host.shared() or not pictures or not all(picture.jpeg or picture.left_out for picture in pictures):
            return
        sweep(self._folder)
        listed = [[p.lora, p.title, p.use, len(p.jpeg), p.role, p.left_out] for p in pictures]
        try:
            header = {**_states(subject), "scene": asdict(scene), "pictures": listed}
            data = b"".join([json.dumps(header).encode(), b"\n", *(picture.jpeg for picture in pictures)])
            write_bytes(self._file(subject.original, subject.target), data, overwrite=True)
            self._prune()
        except _FAILURES as error:
            logger.warning("Transfer LoRA: a comparison could not be kept: %s", error)

    def first(self, originals: Mapping[str, Path], target: Checkpoint) -> Kept | None:
        """The comparison of the first LoRA that has one on a target; None where there is none.

        Args:
            originals: the files of LoRAs, by name.
            target: the checkpoint.
        """
        if self._host.shared():
            return None
        found = (_read(self._file(original, target)) for original in originals.values())
        return next((each for each in found if each is not None), None)

    def clear(self) -> int:
        """Remove all of them; returns how many bytes that frees."""
        freed = 0
        for path in self._folder.glob(f"*{_ENDING}"):
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                freed += size
        return freed

    @property
    def _folder(self) -> Path:
        return self._host.cache_folder() / COMPARISONS

    def _file(self, original: Path, target: Checkpoint) -> Path:
        key = "\0".join(str(path.absolute()) for path in (original, target.path))
        return self._folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}{_ENDING}"

    def _prune(self) -> None:
        """Remove what holds no more, and the oldest where there is too much."""
        paths = sorted(self._folder.glob(f"*{_ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for number, path in enumerate(paths):
            total += path.stat().st_size
            with contextlib.suppress(OSError):
                if number >= MOST_FILES or total > MOST_BYTES or not _holding(path):
                    path.unlink()


def _states(subject: Subject) -> dict[str, Any]:
    """The files that a comparison is about, and what tells whether they are the same later on; without hashing them."""
    return {
        "original": [str(subject.original.absolute()), _state(subject.original)],
        "output": None if subject.output is None else [str(subject.output.absolute()), _contents(subject.output)],
    }


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _contents(output: Path) -> str:
    """What an output of ours says of its tensors: noting a verification in it writes the file anew."""
    return read_header(output).metadata[DATA_HASH]


def _holds(header: Mapping[str, Any]) -> bool:
    """Whether the files that a comparison is about are there, and the same."""
    original, state = header["original"]
    if _state(Path(original)) != state:
        return False
    if header["output"] is None:
        return True
    output, contents = header["output"]
    return bool(_contents(Path(output)) == contents)


def _holding(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _holds(json.loads(file.readline(_LONGEST_LINE)))
    except _FAILURES:
        return False


def _read(path: Path) -> Kept | None:
    """The comparison in a file; None where it is damaged or holds no more."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(_LONGEST_LINE))
            if not _holds(header):
                return None
            scene = Scene(**header["scene"])
            shown = tuple(_pictures(header["pictures"], scene.seed, file))
    except _FAILURES:
        return None
    return Kept(scene, shown) if all(picture.jpeg or picture.left_out for picture in shown) else None


def _pictures(listed: Sequence[Any], seed: int, file: BinaryIO) -> Iterator[Shown]:
    # Of an older version, which made three pictures, all on the target.
    older = zip(("without", "reuse", "transferred"), ("", "", ""), strict=True)
    for lora, title, use, length, *more in listed:
        role, left_out = more or next(older)
        jpeg = file.read(length)
        whole = role in ROLES and isinstance(left_out, str) and len(jpeg) == length
        yield Shown(lora, title, use, seed, role, jpeg if whole else b"", left_out=left_out if whole else "")
