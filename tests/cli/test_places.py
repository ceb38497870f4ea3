"""What commands read from and write to: files without permission, folders as models, and folders that are made."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_transfer.architecture import reference
from lib_transfer.cli.main import main
from lib_transfer.library import destination
from tests import tiny


@pytest.fixture
def forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that cannot be opened; nothing is forbidden to root, so the system's answer is given here."""
    path = tmp_path / "forbidden.safetensors"
    path.write_bytes(b"x")
    plain = os.open

    def refuse(name: Any, *more: Any, **others: Any) -> int:
        if isinstance(name, str | Path) and Path(name) == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return plain(name, *more, **others)

    monkeypatch.setattr(os, "open", refuse)
    return path


@pytest.mark.parametrize("command", ["inspect", "adapter", "target", "source", "similarity", "batch"])
def test_a_file_without_permission(
    command: str,
    forbidden: Path,
    style: Path,
    files: tiny.Files,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRANSFER_LORA_CACHE", str(cache))
    source, target = files["sd1-source"], files["sd1-target"]
    arguments = {
        "inspect": ["inspect", forbidden],
        "adapter": ["transfer", forbidden, "--source", source, "--target", target],
        "target": ["transfer", style, "--source", source, "--target", forbidden],
        "source": ["transfer", style, "--source", forbidden, "--target", target],
        "similarity": ["similarity", "--source", forbidden, "--target", target],
        "batch": ["batch", forbidden.parent, "--source", source, "--target", forbidden, "--workers", 1],
    }[command]
    assert main([str(argument) for argument in arguments]) == 1
    told = capsys.readouterr().err
    assert "forbidden.safetensors" in told
    assert "Permission denied" in told
    assert "does not exist" not in told


def test_one_file_without_permission_does_not_stop_a_batch(
    forbidden: Path,
    style: Path,
    files: tiny.Files,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRANSFER_LORA_CACHE", str(cache))
    command = ["batch", forbidden.parent, "--target", files["sd1-target"], "--method", "reuse", "--dry-run"]
    assert main([str(argument) for argument in command]) == 1
    told = capsys.readouterr().out
    assert "Permission denied" in told
    assert f"to convert      {style.stem}" in told


def test_a_folder_of_diffusers_is_a_target(
    style: Path, files: tiny.Files, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_LORA_CACHE", str(cache))
    whole = reference(tiny.architecture("sd1"), width=8, style="diffusers")
    (tmp_path / "pipe" / "unet").mkdir(parents=True)
    unet = {key[len("unet.") :]: torch.ones(shape) for key, shape in whole.items() if key.startswith("unet.")}
    tiny.save(tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors", unet)
    arguments = [
        "transfer",
        style,
        "--target",
        tmp_path / "pipe",
        "--method",
        "reuse",
        "--output-dir",
        tmp_path / "out",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    [made] = (tmp_path / "out").iterdir()
    assert made.name.startswith("style_pipe_reuse_")


def test_folders_that_are_not_there(
    style: Path,
    files: tiny.Files,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are made when something is written, and not before."""
    monkeypatch.setenv("TRANSFER_LORA_CACHE", str(cache))

    def run(*more: object, adapter: Path = style) -> int:
        return main([*map(str, ("transfer", adapter, "--target", files["sd1-target"], "--method", "reuse", *more))])

    assert run("--output-dir", tmp_path / "a" / "b", "--dry-run") == 0
    assert run("--output-dir", tmp_path / "a" / "b", adapter=tmp_path / "none") == 2
    assert run("--output-dir", tmp_path / "a" / "b", "--threshold", 1) == 2
    assert not (tmp_path / "a").exists()
    assert run("--output-dir", tmp_path / "a" / "b") == 0
    assert [p.suffix for p in (tmp_path / "a" / "b").iterdir()] == [".safetensors"]
    assert run("--output", tmp_path / "c" / "mine.safetensors") == 0
    assert (tmp_path / "c" / "mine.safetensors").is_file()
    capsys.readouterr()
    monkeypatch.setattr(destination.os, "access", lambda path, mode: False)
    assert run("--output-dir", tmp_path / "d" / "e") == 1
    told = capsys.readouterr().err
    assert f"cannot be made: there is no permission to write to {tmp_path}" in told
    assert "permissions" in told.splitlines()[1]
