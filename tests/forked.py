"""Processes that are forked from one which has loaded what they need: a start takes milliseconds, not seconds."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Lock
from typing import Any

from lib_transfer.cli.main import main
from tests.waiting import HANG

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preloaded"])
_ONE_AT_A_TIME = Lock()
"""Starting a process reads the exit codes of all that have ended, and two threads that read one code get 255 for it."""


def command(arguments: Sequence[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> int:
    """Run the command line in ``folder`` with its output in files; returns its exit code."""
    return _ended(_started(_command, arguments, folder, environment, out, err))


def printed(code: str, *programs: Sequence[object]) -> list[str]:
    """Run ``code`` in a process for each list of arguments, all at once; what each printed."""
    ends = [_FORKS.Pipe(duplex=False) for _ in programs]
    running = [_started(_program, code, [*map(str, p)], there) for p, (_, there) in zip(programs, ends, strict=True)]
    assert [_ended(process) for process in running] == [0] * len(programs)
    return [here.recv() for here, _ in ends]


def _started(what: Any, *arguments: Any) -> Any:
    process = _FORKS.Process(target=what, args=arguments)
    with _ONE_AT_A_TIME:
        process.start()
    return process


def _ended(process: Any) -> int:
    assert wait([process.sentinel], HANG), "it hangs"
    with _ONE_AT_A_TIME:
        process.join()
        code: int = process.exitcode
    return code


def _command(arguments: Sequence[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.update(environment)
    sys.exit(main(arguments))


def _program(code: str, arguments: list[str], end: Connection) -> None:
    sys.argv = ["-c", *arguments]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "__main__"})
    end.send(said.getvalue())
