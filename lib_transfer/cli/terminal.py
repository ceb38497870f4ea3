"""What commands share: the progress bar, where files are written to, the options of the runtime."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import RequestError
from lib_transfer.formats.publish import write_bytes
from lib_transfer.formatting import duration
from lib_transfer.progress import PUBLISHING, remaining, words_for_reading
from lib_transfer.storage.cache import FOLDER_VARIABLE

_MODEL_FILES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"}


SILENCE = 300.0
"""Seconds between two lines of progress where there is no terminal, as in the log of a job that runs overnight."""


class Line:
    """A line at the bottom of a terminal that is drawn again and again; elsewhere a line of its own after each silence."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._said = time.monotonic()

    def draw(self, share: float, text: str, left: float | None) -> None:
        """How far it is: a share (0 to 1), the time left in seconds, and a text."""
        time_left = "" if left is None else f"{duration(left)} left  "
        if self._stream.isatty():
            bar, width = "#" * round(20 * share), max(shutil.get_terminal_size().columns - 25, 20)
            self._stream.write(f"\r\x1b[K[{bar:<20}] {f'{time_left}{text}'[:width]}")
            self._stream.flush()
        elif time.monotonic() - self._said >= SILENCE:
            self._said = time.monotonic()
            self._stream.write(f"{share:4.0%}  {time_left}{text}\n")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class Bar:
    """A progress bar with the time left, or lines where there is no terminal. Ctrl-C stops the job between two modules."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._line = Line(stream)
        self._lock = threading.Lock()
        self._total, self._done, self._began = 0, 0, 0.0
        self._what = ""

    def start(self, total: int, what: str) -> None:
        """Begin a stretch of ``total`` steps."""
        self._total, self._done, self._began, self._what = total, 0, time.monotonic(), what
        self._draw("")

    def step(self, what: str) -> None:
        """One step is done."""
        with self._lock:
            self._done += 1
            self._draw(what)
            if self._done == self._total:
                self._line.clear()

    def reading(self, files: str, done: int, total: int) -> None:
        """Bytes of files are read."""
        if done < total:
            self._line.draw(done / total, words_for_reading(files, done, total), None)
        else:
            self._line.clear()

    def publishing(self) -> None:
        """The output is being written."""
        self._line.draw(1.0, PUBLISHING, None)

    def cancelled(self) -> bool:
        """Never: Ctrl-C interrupts the main thread."""
        return False

    def _draw(self, what: str) -> None:
        share = self._done / max(self._total, 1)
        left = remaining(share, time.monotonic() - self._began)
        self._line.draw(share, f"{self._done}/{self._total}  {self._what}  {what[-50:]}", left)


def add_reports(parser: argparse.ArgumentParser, what: str, *, plot: bool = False) -> None:
    """Add ``--json``, which writes ``what``, and ``--plot`` where there is something to draw."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write {what} as JSON (- for stdout)")
    if plot:
        text = "draw a heat map of the modules (blocks against roles) as PNG"
        parser.add_argument("--plot", type=Path, metavar="FILE", help=text)


def check_reports(options: argparse.Namespace) -> None:
    """Raise :class:`RequestError` before any work if a report could not be written where the options say."""
    for name in ("json", "plot", "report", "card"):
        check_report_path(getattr(options, name, None))


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how something is computed."""
    text = "the device to compute on (default auto: a GPU if there is one)"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)
    add_cache_folder(parser)


def add_cache_folder(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache-dir``."""
    text = f"the folder of the cache (default: {FOLDER_VARIABLE}, or the user's cache folder)"
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help=text)


def runtime(options: argparse.Namespace) -> Runtime:
    """The runtime that the options ask for."""
    return Runtime(device=getattr(options, "device", "auto"), cache_folder=options.cache_dir)


def talk(report: Path | None) -> TextIO:
    """Where the words go: the standard output, unless the report goes there."""
    return sys.stderr if str(report) == "-" else sys.stdout


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to ``path``, whole or not at all; ``-`` is the standard output."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
    else:
        check_report_path(path)
        write_bytes(path, text.encode("utf-8", "replace"), overwrite=True)


def check_report_path(path: Path | None) -> None:
    """Raise :class:`RequestError` when a report would be written over a model, or into a folder that is not there."""
    if path is None or str(path) == "-":
        return
    if path.suffix.lower() in _MODEL_FILES or path.is_dir():
        message = f"A report cannot be written to {path}: it is a folder, or has the name of a model file."
        raise RequestError(message, hint="Choose another file name.")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"The folder {path.absolute().parent} does not exist.", hint="Create it first.")
