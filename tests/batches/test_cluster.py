"""A batch on a Dask cluster of two worker processes, one of which is killed midway: the same files."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_transfer.batches import cluster
from lib_transfer.batches.watch import SilentWatch
from lib_transfer.cli.main import main
from lib_transfer.errors import RequestError
from tests.batches import shelf
from tests.batches.conftest import World
from tests.batches.steps import ask, contents, go, grouped, look
from tests.waiting import HANG, until

# Dask is no part of the environments that pin what the WebUIs have; there the rest of this folder is tested alone.
needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask's distributed")


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two worker processes of one thread each, however long their start takes."""
    import dask
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "PATIENCE", f"{HANG}s")
    patience = {f"distributed.comm.timeouts.{name}": f"{HANG}s" for name in ("connect", "tcp")}
    workers = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with dask.config.set(patience), LocalCluster(**workers) as local:
        yield local


@needs_dask
def test_the_same_files_with_a_worker_killed_midway(
    scheduler: Any, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loras = tmp_path / "Lora"
    for number in range(8):
        shelf.sound(loras, f"{number % 2}/style-{number}", number)
    (loras / "page.safetensors").write_bytes(b"<html>")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    for folder in (undisturbed, out):
        folder.mkdir()
    go(world, look(world, loras, output=undisturbed))
    expected = contents(undisturbed)
    assert len(expected) == 8
    killed: list[int] = []

    def kill() -> None:
        """Once the first output is there, the worker that has not made it."""
        until(lambda: contents(out), every=0.01)
        worker = next(iter(scheduler.workers.values())).pid
        killed.append(worker)
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    command = ["batch", loras, "--recursive", "--output-dir", out, "--scheduler", scheduler.scheduler_address]
    command += ["--source", world.base, "--target", world.target, "--cache-dir", tmp_path / "cache"]
    # Each LoRA is a group of its own.
    code = main([*map(str, command), "--memory", "0.000001"])
    killer.join()
    said = capfd.readouterr()
    assert killed
    assert code == 1, said  # for the page
    assert "Done:" in said.out
    assert "1 failed." in said.out
    # What the killed one was writing has no LoRA's name, and goes when something is written there again.
    assert {name: data for name, data in contents(out).items() if not name.endswith(".part")} == expected

    # A worker with another version of the project would make other bytes.
    monkeypatch.setattr(cluster, "OURS", ("another", 0))
    groups = grouped(world, look(world, loras, asked=ask(world, loras, settings={"strength": 0.5})))
    with cluster.connected(scheduler.scheduler_address) as there, pytest.raises(RequestError, match="has version"):
        list(cluster.on_cluster(groups, SilentWatch(), there))


def test_without_dask_or_a_scheduler_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RequestError, match="needs Dask"), cluster.connected("tcp://127.0.0.1:1"):
        pass


@needs_dask
def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", "1s")
    with pytest.raises(RequestError, match="No Dask scheduler answers"), cluster.connected("tcp://127.0.0.1:1"):
        pass
