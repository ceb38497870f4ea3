"""``transfer`` from the command line: flags, exit codes, what goes to which stream, interruption."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lib_transfer.cli.main import main
from lib_transfer.conversion import group
from lib_transfer.errors import NotEnoughMemoryError
from tests import tiny
from tests.cli.conftest import Done, standing, start
from tests.waiting import HANG

Cli = Callable[..., Done]
PNG = b"\x89PNG\r\n\x1a\n"


def _ends(files: tiny.Files) -> list[object]:
    return ["--source", files["sd1-source"], "--target", files["sd1-target"]]


def _models(folder: Path) -> set[str]:
    return {p.name for p in folder.rglob("*") if p.suffix in (".safetensors", ".part")} - {"style.safetensors"}


def test_all_flags_and_again(cli: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
    """Every flag of the issue in one command; the second time it is already done and says so with 0."""
    command = [
        "transfer", style, *_ends(files), "--method", "prolora", "--energy", "0.9", "--threshold", "0.1",
        "--below", "copy", "--strength", "-0.5", "--rank", "2", "--dtype", "bf16", "--inserted", "share", "--device", "cpu",
        "--output", tmp_path / "mine.safetensors", "--cache-dir", tmp_path / "own", "--json", "-", "--plot", "map.png",
    ]  # fmt: skip
    first = cli(*command)
    assert first.code == 0, first.err
    told = json.loads(first.out)
    assert (told["schema"], told["status"]) == (1, "written")
    assert told["output"] == str(tmp_path / "mine.safetensors")
    settings = told["request"]["settings"]
    assert settings == {
        "energy": 0.9, "subspace_rank": None, "threshold": 0.1, "below": "copy", "strength": -0.5, "rank": 2, "dtype": "bf16",
        "inserted": "share",
    }  # fmt: skip
    assert told["report"]["modules"] == len(told["report"]["module_reports"]) == 3
    assert "ProLoRA" in told["report"]["verdict"]
    assert "ProLoRA" in first.err  # the words go elsewhere, so that the output is pure JSON
    assert (tmp_path / "map.png").read_bytes().startswith(PNG)
    assert (tmp_path / "own" / "weights").is_dir()
    tensors = load_file(tmp_path / "mine.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert {t.shape[0] for key, t in tensors.items() if key.endswith("lora_down.weight")} == {2}

    kept = (tmp_path / "mine.safetensors").read_bytes()
    second = cli(*command)
    assert second.code == 0
    assert json.loads(second.out)["status"] == "already done"
    assert (tmp_path / "mine.safetensors").read_bytes() == kept


# These are run as processes; for the others the start of one would add nothing.
PROCESSES = ("a page", "no source", "not ours", "no such flag", "similarity across")


def _here(capfd: pytest.CaptureFixture[str], arguments: list[object]) -> Done:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = int(str(ended.code))
    captured = capfd.readouterr()
    return Done(code, captured.out, captured.err)


def test_bad_input(
    several: Any,
    style: Path,
    files: tiny.Files,
    cache: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, a sentence, no traceback and no file."""
    monkeypatch.setenv("TRANSFER_LORA_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"<!DOCTYPE html>")
    nan = tiny.save(tmp_path / "nan.safetensors", {"lora_unet_conv_in.lora_up.weight": torch.full((8, 1), float("nan")),
                                                   "lora_unet_conv_in.lora_down.weight": torch.ones(1, 4, 3, 3)})  # fmt: skip
    theirs = tiny.save(tmp_path / "theirs.safetensors", {"a": torch.ones(1)})
    there = {p.name for p in tmp_path.iterdir()}
    ends = _ends(files)
    cases: dict[str, tuple[list[object], str]] = {
        "missing adapter": (["transfer", "nowhere.safetensors", *ends], "does not exist"),
        "a page": (["transfer", junk, *ends], "HTML"),
        "NaN": (["transfer", nan, *ends], "NaN"),
        "wrong architecture": (
            ["transfer", style, "--source", files["sdxl-source"], "--target", files["sdxl-target"]], "Stable Diffusion 1.x"
        ),
        "no source": (["transfer", style, "--target", files["sd1-target"]], "needs the checkpoint"),
        "no such method": (["transfer", style, *ends, "--method", "rotate"], 'Did you mean "rotation"'),
        "threshold": (["transfer", style, *ends, "--threshold", "2"], "threshold cannot be"),
        "rank": (["transfer", style, *ends, "--rank", "0"], "rank cannot be"),
        "both ranks": (["transfer", style, *ends, "--energy", "0.5", "--subspace-rank", "3"], "Both an energy"),
        "not ours": (["transfer", style, *ends, "--output", theirs, "--overwrite"], "not made by Transfer LoRA"),
        "report over a model": (["transfer", style, *ends, "--json", theirs], "cannot be written to"),
        "no folder": (["transfer", style, *ends, "--output-dir", style / "below"], "cannot be made"),
        "no such flag": (["transfer", style, *ends, "--nope"], "unrecognized arguments"),
        "no command": ([], "required"),
        "inspect junk": (["inspect", junk], "HTML"),
        "similarity of junk": (["similarity", "--source", junk, "--target", junk], "HTML"),
        "similarity across": (
            ["similarity", "--source", files["sd1-source"], "--target", files["sdxl-source"]], "do not correspond"
        ),
    }  # fmt: skip
    results = {name: _here(capfd, command) for name, (command, _) in cases.items() if name not in PROCESSES}
    results |= several({name: cases[name][0] for name in PROCESSES})
    for name, done in results.items():
        assert done.code == 2, (name, done)
        assert cases[name][1] in done.err, (name, done.err)
        assert "Traceback" not in done.err, name
        assert done.out == "", name
    assert {p.name for p in tmp_path.iterdir()} == there


def test_a_full_disk(style: Path, files: tiny.Files, tmp_path: Path) -> None:
    """A trouble with the disk is 1, not 2."""

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    process = start(["transfer", style, *_ends(files)], tmp_path, tmp_path / "cache", little_room)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1, err
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} <= {"style.safetensors", "cache"}


def test_interrupted(files: tiny.Files, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ctrl-C during a transfer: 130, a sentence, and nothing left."""
    from tests.transfer.test_formulas import adapter, places

    tiny.save(tmp_path / "style.safetensors", adapter(places("sd1")))
    command = ["transfer", "style.safetensors", *_ends(files), "--json", "told.json"]
    hold = tmp_path_factory.mktemp("held") / "hold"
    process = start(command, tmp_path, tmp_path / "cache", hold=hold)
    standing(process, hold)
    process.send_signal(signal.SIGINT)
    hold.unlink()  # the module that is under way is finished
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 130, err
    assert "Interrupted; nothing was written." in err
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} == {"style.safetensors", "cache"}


class TestInOneProcess:
    """The same entry point without the start of a process, for what needs several runs."""

    @pytest.fixture
    def run(self, capfd: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
        monkeypatch.setenv("TRANSFER_LORA_CACHE", str(cache))

        def run(*arguments: object) -> Done:
            return _here(capfd, list(arguments))

        return run

    def test_reuse_does_without_a_source(self, run: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
        done = run("transfer", style, "--target", files["sd1-target"], "--method", "reuse")
        assert done.code == 0
        assert "Written: " in done.out
        (name,) = _models(tmp_path)
        assert name.startswith("style_sd1-target_reuse_")

    def test_a_dry_run_writes_no_lora(self, run: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
        done = run("transfer", style, *_ends(files), "--dry-run", "--json", tmp_path / "told.json")
        assert done.code == 0
        assert "Rotation: 3 of 3 modules were carried" in done.out
        assert "not whether the LoRA works" in done.out
        assert json.loads((tmp_path / "told.json").read_text())["status"] == "analysed"
        assert _models(tmp_path) == set()

    def test_overwriting(self, run: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
        """A file of ours that differs is refused with 2, and replaced with --overwrite; --output keeps the name."""
        mine = tmp_path / "mine.safetensors"
        command: list[object] = ["transfer", style, *_ends(files), "--method", "reuse", "--output", mine]
        assert run(*command).code == 0
        first = mine.read_bytes()
        refused = run(*command, "--strength", "0.5")
        assert refused.code == 2
        assert "--overwrite" in refused.err
        assert mine.read_bytes() == first
        assert run(*command, "--strength", "0.5", "--overwrite").code == 0
        assert mine.read_bytes() != first
        assert run(*command, "--overwrite").code == 0
        assert mine.read_bytes() == first
        # Damaged since: no longer "already done", and refused until overwriting is allowed.
        mine.write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
        assert run(*command).code == 2
        assert run(*command, "--overwrite").code == 0
        assert mine.read_bytes() == first
        assert _models(tmp_path) == {"mine.safetensors"}

    def test_into_a_folder(self, run: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        assert run("transfer", style, *_ends(files), "--method", "reuse", "--output-dir", tmp_path / "out").code == 0
        assert len(_models(tmp_path / "out")) == 1
        assert run("transfer", style, *_ends(files), "--method", "reuse", "--output-dir", tmp_path / "out").code == 0
        assert len(_models(tmp_path / "out")) == 1

    def test_nothing_carried(self, run: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
        done = run("transfer", style, *_ends(files), "--threshold", "1", "--energy", "0.9")
        assert done.code == 2
        assert "Nothing of this adapter can be carried" in done.out
        assert _models(tmp_path) == set()

    @pytest.mark.parametrize("error", [ValueError("a bug"), NotEnoughMemoryError("There is no more memory.")])
    def test_what_is_not_the_inputs_fault_is_1(
        self,
        error: Exception,
        run: Cli,
        style: Path,
        files: tiny.Files,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def failing(*_: object) -> None:
            raise error

        monkeypatch.setattr(group, "carry", failing)
        done = run("transfer", style, *_ends(files))
        assert done.code == 1
        assert str(error) in done.err
        assert ("error in Transfer LoRA itself" in done.err) is (type(error) is ValueError)
        assert _models(tmp_path) == set()

    def test_defaults(self, run: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
        told = json.loads(run("transfer", style, *_ends(files), "--json", "-").out)
        assert told["request"]["method"] == "rotation"
        expected = {"energy": 0.99, "threshold": 0.8, "rank": "same", "strength": 1.0, "below": "drop", "dtype": None}
        assert {key: told["request"]["settings"][key] for key in expected} == expected
        (output,) = _models(tmp_path)
        assert {t.dtype for t in load_file(tmp_path / output).values()} == {torch.float32}
