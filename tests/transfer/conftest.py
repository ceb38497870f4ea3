"""The tiny checkpoints, made once, and one cache folder for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import lib_transfer
from tests import tiny
from tests.transfer.transformers import Bases, bases_in


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> lib_transfer.Runtime:
    return lib_transfer.Runtime(device="cpu", cache_folder=tmp_path_factory.mktemp("cache"), workers=2)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Tiny transformers by name, each made when it is first asked for."""
    return bases_in(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def transfer(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> Callable[..., object]:
    """Transfer an adapter file from one of the tiny checkpoints to another, into ``tmp_path / "out"``."""
    out = tmp_path / "out"

    def run(adapter: Path, source: str | Path, target: str | Path, **settings: object) -> lib_transfer.TransferResult:
        out.mkdir(exist_ok=True)
        ends = [files[end] if isinstance(end, str) else end for end in (source, target)]
        request = lib_transfer.request(adapter, source=ends[0], target=ends[1], runtime=runtime, **settings)
        return lib_transfer.transfer(request, lib_transfer.Destination(folder=out), runtime=runtime)

    return run
