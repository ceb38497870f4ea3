"""What prompt time adds to a generation: without a tag, with copies that are there, on a folder with many LoRAs.

Runs on a stand-in of the programs, so it needs an environment with gradio. Checkpoints are small; their size plays no part
once their hashes are remembered.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lib_transfer.webui.app import extension
from lib_transfer.webui.host.settings import PREFIX, USE_ORIGINAL
from tests.webui import models
from tests.webui.generations import Generations, Txt2Img
from tests.webui.programs import Program

ADAPTERS = 5
REPEATS = 50


def run(loras: int) -> None:
    """Measure and print, with ``loras`` LoRAs in the folder."""
    logging.getLogger("transfer_lora").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        made = _program(Path(folder), patch, loras)
        names = [f"lora-{number}" for number in range(ADAPTERS)]
        tags = "".join(f"<tlora:{name}:1>" for name in names)
        print(f"{loras} LoRAs; medians of {REPEATS}, milliseconds that the hooks take", flush=True)
        _print("no tag, box unticked", _hooks(made, "a cat, <lora:lora-7:0.5>"), "under 1")
        made.generate(tags)
        _print("one resolved copy", _hooks(made, "<tlora:lora-0:1>"), "under 20")
        _print(f"{ADAPTERS} resolved copies, each", _hooks(made, tags) / ADAPTERS, "under 20")
        _print("one resolved copy, after a start", _hooks(made, "<tlora:lora-0:1>", before=_restart), "under 20")
        made.program.opts.data[PREFIX + "missing"] = USE_ORIGINAL
        _print("a missing copy, original used", _hooks(made, "<tlora:lora-8:1>"), "")


def _program(folder: Path, patch: pytest.MonkeyPatch, loras: int) -> Generations:
    _restart()
    program = Program(folder, patch, forge=False)
    models.checkpoints(folder / "made")
    place = folder / "models" / "Stable-diffusion"
    (folder / "made" / "Stable-diffusion").rename(place)
    for name in (models.BASE, models.TUNED):
        program.add(place / name)
    first = models.lora(folder / "models", "lora-0")
    for number in range(1, loras):
        if number <= ADAPTERS:
            models.lora(folder / "models", f"lora-{number}", seed=number)
        else:
            os.link(first, program.loras / f"lora-{number}.safetensors")
    made = Generations(program)
    made.choose(models.TUNED)
    made.generate("the model is loaded")
    return made


def _hooks(made: Generations, prompt: str, before: Callable[[], None] = lambda: None) -> float:
    """Milliseconds that our hooks take in one generation of one batch."""
    times = []
    for _ in range(REPEATS):
        p = Txt2Img(made, prompt)
        p.setup_prompts()
        before()
        began = time.perf_counter()
        made.script.process(p, False)
        p.prompts = list(p.all_prompts or ())
        made.script.before_process_batch(p, False, prompts=p.prompts)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _restart() -> None:
    """As a new process: nothing is remembered but what is on disk."""
    extension.events.cache_clear()
    extension.prompts.cache_clear()


def _print(what: str, milliseconds: float, limit: str) -> None:
    print(f"{milliseconds:9.2f}  {what}{f' ({limit})' if limit else ''}", flush=True)
