"""Killed at any moment, a transfer leaves nothing or the whole file, and the next run finishes with the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lib_transfer
from tests import tiny
from tests.transfer.test_formulas import adapter, places
from tests.waiting import HANG

# One process with torch loaded forks a transfer per round, so that a round takes milliseconds, not seconds.
# The child is killed after a random time between nothing and what an undisturbed transfer took.
PARENT = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    import lib_transfer
    from lib_transfer.conversion import jobs  # all imports before the forks
    torch.set_num_threads(1)
    style, source, target, out, cache, rounds, seed = sys.argv[1:]
    random.seed(int(seed))

    def once(cache, out):
        runtime = lib_transfer.Runtime(device="cpu", cache_folder=Path(cache), workers=1)
        request = lib_transfer.request(style, source=source, target=target, runtime=runtime)
        lib_transfer.transfer(request, lib_transfer.Destination(folder=Path(out)), runtime=runtime)

    def run(cache, out, limit):
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            once(cache, out)
            os._exit(0)
        if limit is not None:
            time.sleep(limit)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return time.monotonic() - began, os.WIFSIGNALED(status)

    def outputs(folder):
        return [p.read_bytes() for p in folder.iterdir() if p.suffix != ".part"]

    folders = [Path(out) / name for name in ("cold", "warm")]
    for folder in folders:
        folder.mkdir()
    took = [run(cache + "/whole", folder, None)[0] for folder in folders]
    expected = outputs(folders[0])
    assert len(expected) == 1 and outputs(folders[1]) == expected
    kills = number = 0
    # Also until one was killed before its end: how fast a child is depends on what else the machine does.
    while number < int(rounds) or not kills:
        folder = Path(out) / str(number)
        folder.mkdir()
        warm = number % 2  # then most of the time goes into the writing
        used = cache + ("/whole" if warm else f"/{number}")
        _, killed = run(used, folder, random.uniform(0, 0.9) * took[warm])
        kills += killed
        assert outputs(folder) in ([], expected), number
        _, killed = run(used, folder, None)
        assert not killed and outputs(folder) == expected, number
        number += 1
    print(kills)
"""


def test_kill_9_at_random_moments(files: tiny.Files, tmp_path: Path) -> None:
    where = dict(list(places("sd1").items())[::12])
    style = tiny.save(tmp_path / "style.safetensors", adapter(where))
    out = tmp_path / "out"
    out.mkdir()
    arguments = [style, files["sd1-source"], files["sd1-target"], out, tmp_path / "cache", 10, random.randrange(10**6)]
    command = [sys.executable, "-c", textwrap.dedent(PARENT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, f"seed {arguments[-1]}: {done.stderr[-2000:]}"
    assert int(done.stdout) > 0


def test_a_person_stops_it_at_every_module(files: tiny.Files, tmp_path: Path) -> None:
    """Row 30: nothing is left, and a later run gives the bytes of an undisturbed one."""
    where = dict(list(places("sd1").items())[::60])
    style = tiny.save(tmp_path / "style.safetensors", adapter(where))
    out = tmp_path / "out"
    out.mkdir()
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    request = lib_transfer.request(style, source=files["sd1-source"], target=files["sd1-target"], runtime=runtime)

    class Stops:
        def __init__(self, after: int) -> None:
            self.left = after

        def start(self, total: int, what: str) -> None: ...

        def step(self, what: str) -> None:
            self.left -= 1

        def cancelled(self) -> bool:
            return self.left <= 0

    for after in range(len(where) + 1):
        with pytest.raises(lib_transfer.TransferError) as caught:
            lib_transfer.transfer(request, lib_transfer.Destination(folder=out), runtime=runtime, progress=Stops(after))
        assert caught.value.exit_code == 130
        assert list(out.iterdir()) == []
    done = lib_transfer.transfer(request, lib_transfer.Destination(folder=out), runtime=runtime)
    other = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "fresh", workers=2)
    (tmp_path / "undisturbed").mkdir()
    undisturbed = lib_transfer.transfer(
        request, lib_transfer.Destination(folder=tmp_path / "undisturbed"), runtime=other
    )
    assert done.path is not None
    assert undisturbed.path is not None
    assert done.path.read_bytes() == undisturbed.path.read_bytes()
