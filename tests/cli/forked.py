"""The command line in processes that are forked from one which has loaded torch: a start takes milliseconds, not seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lib_transfer.cli.main import main
from tests.waiting import HANG

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def run(arguments: Sequence[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> int:
    """Run one command in ``folder`` with its output in files; returns its exit code."""
    process = _FORKS.Process(target=_command, args=(arguments, folder, environment, out, err))
    process.start()
    process.join(HANG)
    assert process.exitcode is not None, f"hangs: {arguments}"
    return process.exitcode


def _command(arguments: Sequence[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.update(environment)
    sys.exit(main(arguments))
