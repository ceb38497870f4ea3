"""The command line as people run it: a process of its own, and its exit code, output and errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import forked, tiny
from tests.waiting import HANG, until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What a process came to."""

    code: int
    out: str
    err: str


def start(
    arguments: Sequence[object],
    folder: Path,
    cache: Path,
    before: Callable[[], None] | None = None,
    hold: Path | None = None,
) -> subprocess.Popen[str]:
    """A process of the command line that Ctrl-C stops.

    Args:
        arguments: of the command line.
        folder: the working directory.
        cache: the cache folder.
        before: is called in the process first.
        hold: a file; while it exists, the process stands still within a module (:mod:`tests.batches.held`).
    """

    def prepare() -> None:
        interruptible()
        if before is not None:
            before()

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFER_LORA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    if hold is not None:
        hold.touch()
        environment["HOLD"] = str(hold)
    module = "lib_transfer" if hold is None else "tests.batches.held"
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=prepare,  # noqa: PLW1509 - before the child has threads
    )


def interruptible() -> None:
    """Let SIGINT end this process again. A shell's background jobs ignore it, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def standing(process: subprocess.Popen[str], hold: Path) -> int:
    """Wait until a process of ``process`` stands still; its id."""

    def there() -> list[int]:
        assert process.poll() is None, process.communicate()
        return [int(path.suffix[1:]) for path in hold.parent.glob(f"{hold.name}.*")]

    return until(there)[0]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cli(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[..., Done]:
    """Run one command in ``tmp_path``, in a process of its own."""

    def run(*arguments: object) -> Done:
        if arguments[0] == "batch":  # it starts processes itself, and those begin with the main module of this one
            process = start(arguments, tmp_path, cache)
            said = process.communicate(timeout=HANG)
            return Done(process.returncode, *said)
        place = tmp_path_factory.mktemp("said")
        environment = {"TRANSFER_LORA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        code = forked.command([*map(str, arguments)], tmp_path, environment, place / "out", place / "err")
        return Done(code, (place / "out").read_text(), (place / "err").read_text())

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
