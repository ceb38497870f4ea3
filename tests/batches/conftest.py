"""A source, a target and a warm cache, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lib_transfer.conversion.runtime import Runtime
from tests import tiny
from tests.batches import shelf


@dataclass(frozen=True)
class World:
    """Checkpoints, and a cache that holds what the adapters of :mod:`tests.batches.shelf` need."""

    checkpoints: Path
    cache: Path

    @property
    def base(self) -> Path:
        return self.checkpoints / "base.safetensors"

    @property
    def target(self) -> Path:
        return self.checkpoints / "tuned.safetensors"

    @property
    def runtime(self) -> Runtime:
        return Runtime(device="cpu", cache_folder=self.cache, workers=1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    (folder / "checkpoints").mkdir()
    made = World(folder / "checkpoints", folder / "cache")
    weights = tiny.weights("sd1")
    tiny.save(made.base, weights, torch.float16)
    tiny.save(made.target, tiny.fine_tuned(weights, 0.05), torch.float16)
    return made


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """A folder with three LoRAs, one of them in a sub-folder."""
    folder = tmp_path / "Lora"
    for number, name in enumerate(("one", "two", "styles/three")):
        shelf.sound(folder, name, number)
    return folder
