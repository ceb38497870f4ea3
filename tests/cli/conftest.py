"""The command line as people run it: a process of its own, and its exit code, output and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What a process came to."""

    code: int
    out: str
    err: str


def start(
    arguments: Sequence[object], folder: Path, cache: Path, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """A process of the command line; ``before`` runs in it first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFER_LORA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lib_transfer", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=before,  # noqa: PLW1509 - before the child has threads
    )


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tiny.Files:
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cli(tmp_path: Path, cache: Path) -> Callable[..., Done]:
    """Run one command in ``tmp_path``."""

    def run(*arguments: object) -> Done:
        process = start(arguments, tmp_path, cache)
        out, err = process.communicate(timeout=120)
        return Done(process.returncode, out, err)

    return run


@pytest.fixture
def several(cli: Callable[..., Done]) -> Callable[[dict[str, Sequence[object]]], dict[str, Done]]:
    """Run commands that do not depend on each other, two at a time."""

    def run(commands: dict[str, Sequence[object]]) -> dict[str, Done]:
        with ThreadPoolExecutor(2) as pool:
            running: dict[str, Future[Done]] = {name: pool.submit(cli, *command) for name, command in commands.items()}
        return {name: future.result() for name, future in running.items()}

    return run


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """A LoRA for SD1 with trigger words."""
    stem = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_{}"
    modules = {(1, "attn1_to_q"): 16, (1, "attn1_to_k"): 16, (0, "attn2_to_q"): 8}  # SDXL has no attention in block 0
    tensors: tiny.Weights = {}
    for number, (place, width) in enumerate(modules.items()):
        tensors |= tiny.factors(stem.format(*place), (width, width), seed=number)
    metadata = {"modelspec.trigger_phrase": "my style", "ss_sd_model_name": "a.safetensors"}
    return tiny.save(tmp_path / "style.safetensors", tensors, None, metadata)
