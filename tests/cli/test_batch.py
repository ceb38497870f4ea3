"""``batch`` from the command line, as processes: exit codes, reports, Ctrl-C, SIGKILL, a full disk."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib_transfer.cli.main import main
from tests import tiny
from tests.batches import shelf
from tests.batches.steps import contents
from tests.cli.conftest import ROOT, Done, standing, start
from tests.waiting import HANG, until

Cli = Callable[..., Done]


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    folder = tmp_path / "Lora"
    for number, name in enumerate(("one", "two", "styles/three", "styles/four")):
        shelf.sound(folder, name, number, trained_on="sd1-source.safetensors")
    return folder


@pytest.fixture
def ends(files: tiny.Files) -> list[object]:
    return ["--source", files["sd1-source"], "--target", files["sd1-target"]]


@pytest.fixture
def here(cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """A command without a process of its own, for what converts nothing."""
    monkeypatch.setenv("TRANSFER_LORA_CACHE", str(cache))

    def run(*arguments: object) -> Done:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(str(ended.code))
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def test_a_folder_and_again(cli: Cli, here: Cli, loras: Path, files: tiny.Files, tmp_path: Path) -> None:
    """Two workers, sources from the metadata, a broken file; then nothing is left to do."""
    (loras / "page.safetensors").write_bytes(b"<!DOCTYPE html>")
    out = tmp_path / "out"
    out.mkdir()
    command = ["batch", loras, "--target", files["sd1-target"], "--source-from-metadata", files.folder, "--recursive"]
    command += ["--output-dir", out, "--workers", 2, "--memory", 1.5, "--device", "cpu"]
    first = cli(*command, "--report", tmp_path / "report.csv")
    assert first.code == 1, first
    assert "Traceback" not in first.err
    assert "Done: 4 written, 1 failed." in first.out
    assert "page.safetensors is an HTML page" in first.out
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "report.csv").read_text().splitlines())}
    assert [rows[name]["status"] for name in ("one", "page", "styles/four", "styles/three", "two")] == [
        "written", "failed", "written", "written", "written"
    ]  # fmt: skip
    assert {Path(row["output"]).parent for row in rows.values() if row["output"]} == {out, out / "styles"}
    assert rows["one"]["source"] == "sd1-source.safetensors"
    made = contents(out)
    assert len(made) == 4

    second = here(*command, "--report", "-")
    assert second.code == 1
    assert {row["status"] for row in json.loads(second.out)["adapters"]} == {"already done", "failed"}
    assert contents(out) == made
    (loras / "page.safetensors").unlink()
    assert here(*command).code == 0


def test_a_dry_run_and_bad_input(here: Cli, loras: Path, ends: list[object], files: tiny.Files, tmp_path: Path) -> None:
    before = contents(loras)
    told = here(
        "batch", loras, *ends, "--recursive", "--include", "styles/*", "--dry-run", "--report", tmp_path / "r.json"
    )
    assert told.code == 0
    assert "to convert      styles/three" in told.out
    assert "2 LoRAs: 2 to convert." in told.out
    assert "of disk" in told.out
    assert [r["status"] for r in json.loads((tmp_path / "r.json").read_text())["adapters"]] == ["to convert"] * 2
    cases: dict[str, tuple[list[object], str]] = {
        "no folder": (["batch", "nowhere", *ends], "does not exist"),
        "no lora": (["batch", tmp_path, *ends], "--recursive"),
        "no source": (["batch", loras, "--target", files["sd1-target"]], "--source-from-metadata"),
        "two sources": (["batch", loras, *ends, "--source-from-metadata", tmp_path], "not allowed with"),
        "no checkpoints": (["batch", loras, *ends[2:], "--source-from-metadata", loras / "styles"], ""),
        "a bad target": (["batch", loras, *ends[:2], "--target", loras / "one.safetensors"], "one.safetensors"),
        "no output folder": (["batch", loras, *ends, "--output-dir", loras / "one.safetensors"], "is not a folder"),
        "no worker": (["batch", loras, *ends, "--workers", "0"], "no whole number"),
        "no memory": (["batch", loras, *ends, "--memory", "-1"], "no number of GB"),
        "no setting": (["batch", loras, *ends, "--threshold", "2"], "threshold cannot be"),
        "a report over a model": (
            ["batch", loras, *ends, "--report", loras / "one.safetensors"],
            "cannot be written to",
        ),
    }
    for name, (command, said) in cases.items():
        done = here(*command)
        assert done.code == (1 if name == "no checkpoints" else 2), (name, done)
        assert said in done.err, (name, done.err)
        assert "Traceback" not in done.err
    assert contents(loras) == before


class Held:
    """A batch whose worker stands still within a module."""

    def __init__(self, arguments: list[object], folder: Path, cache: Path) -> None:
        self.hold = folder / "hold"
        self.process = start(arguments, ROOT, cache, os.setsid, self.hold)
        self.worker = standing(self.process, self.hold)

    def signal(self, what: int) -> None:
        """Send a signal to the whole session, as a terminal does (SIGKILL to the main process alone)."""
        if what == signal.SIGKILL:
            self.process.kill()
        else:
            os.killpg(self.process.pid, what)

    def gone(self) -> bool:
        """Whether the worker is no more."""
        try:
            return Path(f"/proc/{self.worker}/stat").read_text().split(") ")[1][0] == "Z"
        except FileNotFoundError:
            return True


@pytest.fixture
def held(loras: Path, ends: list[object], tmp_path: Path, cache: Path) -> Iterator[Held]:
    batch = Held(
        ["batch", loras, *ends, "--recursive", "--workers", 1, "--report", tmp_path / "r.json"], tmp_path, cache
    )
    yield batch
    batch.hold.unlink(missing_ok=True)
    if batch.process.poll() is None:
        batch.process.kill()
    batch.process.communicate()


def test_ctrl_c_is_over_at_once_whatever_a_module_takes(held: Held, loras: Path, tmp_path: Path) -> None:
    held.signal(signal.SIGINT)
    out, err = held.process.communicate(timeout=HANG)
    assert held.process.returncode == 130, (out, err)
    assert "Interrupted. 0 LoRAs were written; no file is half-written." in out
    assert "Traceback" not in out + err
    assert held.gone()
    assert {name for name in contents(loras) if "_" in name or name.endswith(".part")} == set()
    assert {row["status"] for row in json.loads((tmp_path / "r.json").read_text())["adapters"]} == {"to convert"}


def test_a_killed_batch_leaves_no_worker_and_is_resumed(
    held: Held, loras: Path, ends: list[object], cli: Cli, tmp_path: Path
) -> None:
    held.signal(signal.SIGKILL)
    until(held.gone)
    held.process.wait()
    assert {name for name in contents(loras) if "_" in name} == set()
    assert cli("batch", loras, *ends, "--recursive", "--workers", 1).code == 0
    assert len([name for name in contents(loras) if "_" in name]) == 4


def test_a_full_disk_stops_it_with_a_sentence(loras: Path, ends: list[object], cache: Path, tmp_path: Path) -> None:
    """The size of files is limited: small outputs are written, the first that is too large stops the batch."""
    shelf.sound(loras, "pile", 5, ss_training_comment="much " * 3000)
    shelf.sound(loras, "zebra", 6)

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    process = start(["batch", loras, *ends, "--workers", 1, "--memory", 0.000001], tmp_path, cache, little_room)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 1, (out, err)
    assert err.startswith("Error: ")
    assert "pile" in err
    assert "could not be written" in err
    assert "Traceback" not in out + err
    made = contents(loras)
    assert [name.split("_")[0] for name in made if "_" in name] == ["one"]
    assert not [name for name in made if name.endswith(".part")]
    assert "written         one" in out
