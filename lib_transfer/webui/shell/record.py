"""What is left of a job when the WebUI ends in the middle of it, so that the page can say what became of it.

There is one file for each job that is under way, in a folder beside the cache: a line of JSON that says what the job does,
then a line with the path of every LoRA that it has written. It is removed when the job ends, however it ends. Lines are only
added, each after its LoRA is in place: a line that is cut off is left out, and what the others say is true.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOB_ID = re.compile(r"task\(transfer-lora-([0-9a-f]{16})\)")

_ENDING = ".job"
_KEPT = 7 * 24 * 3600.0  # seconds
_LONGEST_LIST = 5

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Unfinished:
    """A job that did not come to its end.

    Attributes:
        kind: what was done, as :data:`.jobs.Kind`.
        names: the names of its LoRAs; none where they were not known when it began.
        written: the LoRAs that it had written, which are there.
    """

    kind: str
    names: tuple[str, ...]
    written: tuple[Path, ...]

    @property
    def sentence(self) -> str:
        """What became of it, and what the person can do."""
        work, button, writes = _KINDS[self.kind]
        done = [path.stem for path in self.written]
        if not writes:
            return (
                f"The WebUI ended during {work}. There is no result; nothing was lost. Press {button} to start again."
            )
        if not done:
            return f"The WebUI ended during {work}, before a LoRA was written. Press {button} to start again."
        count = f"{len(done)} of {len(self.names)} LoRAs" if len(self.names) > 1 else _counted(len(done))
        return (
            f"The WebUI ended during {work}. {count} had been written, whole: {_listed(done)}. "
            f"Press {button} again for the rest; what is there is not made anew."
        )


_KINDS: dict[str, tuple[str, str, bool]] = {
    "transfer": ("the transfer", "Transfer", True),
    "analyse": ("the analysis", "Analyse", False),
    "convert": ("the work on the names", "Make it load", True),
    "compare": ("the comparison", "Compare", True),
    "verify": ("the verification", "Verify", False),
    "plan": ("the planning of the batch", "Plan", False),
    "batch": ("the batch", "Run", True),
}
"""Each kind of job in words, the button that starts it, and whether LoRAs are written one after another."""


class JobRecords:
    """The records of the jobs that are under way.

    Args:
        folder: returns the folder that they are kept in, which settings may change.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}

    def begin(self, job_id: str, kind: str, names: Sequence[str]) -> None:
        """A job begins."""
        file = self._file(job_id)
        if file is None:
            return
        with _harmless():
            file.parent.mkdir(parents=True, exist_ok=True)
            _remove_old(file.parent)
            _add(file, {"kind": kind, "names": list(names)})
            self._files[job_id] = file

    def wrote(self, job_id: str, path: Path) -> None:
        """A LoRA of the job is in place."""
        file = self._files.get(job_id)
        if file is not None:
            with _harmless():
                _add(file, str(path.absolute()))

    def end(self, job_id: str) -> None:
        """The job is over, and has said so itself."""
        file = self._files.pop(job_id, None)
        if file is not None:
            with _harmless():
                file.unlink(missing_ok=True)

    def find(self, job_id: object) -> Unfinished | None:
        """A job that an earlier start of the WebUI did not end; None where there is none of this id."""
        file = self._file(job_id)
        try:
            first, *others = [] if file is None else list(_lines(file))
            kind, names = first["kind"], tuple(map(str, first["names"]))
            written = tuple(path for path in map(Path, others) if path.is_file())
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return Unfinished(kind, names, written) if kind in _KINDS else None

    def _file(self, job_id: object) -> Path | None:
        """The file of a job; None for what is no id of a job, as a browser may send."""
        match = JOB_ID.fullmatch(job_id) if isinstance(job_id, str) else None
        return self._folder() / f"{match[1]}{_ENDING}" if match is not None else None


def _add(file: Path, content: Any) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(content) + "\n")


def _lines(file: Path) -> Iterator[Any]:
    """The lines that were written whole."""
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _remove_old(folder: Path) -> None:
    for path in folder.glob(f"*{_ENDING}"):
        if time.time() - path.stat().st_mtime > _KEPT:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """A job goes on without its record."""
    try:
        yield
    except OSError as error:
        logger.warning("Transfer LoRA: what a job does could not be recorded: %s", error)


def _counted(count: int) -> str:
    return f"{count} LoRA{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LONGEST_LIST
    return f"{', '.join(names[:_LONGEST_LIST])}{f' and {more} more' if more > 0 else ''}"
