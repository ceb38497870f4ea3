"""Time, memory and size of the cache for one rank-32 LoRA between two full-size checkpoints."""

from __future__ import annotations

import math
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

import lib_transfer
from lib_transfer.architecture import modules
from lib_transfer.conversion.weights import read_weight
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.writer import write_adapter
from lib_transfer.storage.cache import Cache
from tests.benchmarks import adapters, files, recipe


def memory(
    folder: Path,
    name: str,
    spectrum: str,
    kind: str = "lora",
    every: int = 1,
    method: str = "rotation",
    blocks: int | None = None,
) -> None:
    """Peak of anonymous memory over the interpreter with torch imported, cold, in a process of its own."""
    paths = files.make(folder, name, spectrum, every, kind, blocks)
    size = paths[2].stat().st_size / 2**20
    print(
        f"{_model(name, blocks)}, {spectrum} spectra, {kind} of {size:.0f} MB, every {every}. module, {method}",
        flush=True,
    )
    arguments = [*map(str, (*paths, folder / "memory")), method]
    subprocess.run([sys.executable, "-m", "tests.benchmarks.speed", *arguments], check=True)


def run(
    folder: Path,
    name: str,
    spectrum: str,
    with_recipe: bool,
    every: int,
    blocks: int | None = None,
    rounds: int = 3,
    device: str = "cpu",
) -> None:
    """Measure turn and turn about, and print medians; of some blocks of a transformer, what all of its blocks would take."""
    source, target, adapter = files.make(folder, name, spectrum, every, blocks=blocks)
    cache, out = folder / "cache", folder / "out"
    out.mkdir(exist_ok=True)
    with open_checkpoint(source) as checkpoint:
        chosen = files.covered(modules(files.architecture(name), checkpoint.shapes))[::every]
    covered = sum(2 * m.matrix_shape[0] * m.matrix_shape[1] for m in chosen) * 2
    print(f"{_model(name, blocks)}, {spectrum} spectra, {len(chosen)} modules, rank {adapters.RANK}; {machine(device)}")

    def ours(method: str, *, cold: bool = False) -> None:
        for path in out.glob("*.safetensors"):
            path.unlink()
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
        _ours(source, target, adapter, cache, out, method, device)

    kinds: dict[str, Callable[[], None]] = {
        "cold rotation, hashing included": lambda: ours("rotation", cold=True),
        "warm rotation": lambda: ours("rotation"),
        "warm prolora": lambda: ours("prolora"),
        "reading and writing alone": lambda: _read_and_write(source, target, adapter, cache, out, chosen),
    }
    if with_recipe:
        kinds["the obvious recipe"] = lambda: recipe.transfer(
            source, target, adapter, out / "recipe.safetensors", chosen
        )
    each: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, work in kinds.items():
            each[kind].append(_time(kind, work))
    cold, warm, prolora, io, *base = (statistics.median(times) for times in each.values())
    _print_cache(cache, covered)
    print(f"medians of {rounds}: cold {cold:.2f} s, warm {warm:.2f} s, reading and writing {io:.2f} s")
    print(f"warm rotation / reading and writing: {warm / io:.2f} (at most 1.5); warm prolora / it: {prolora / io:.2f}")
    if blocks is not None:
        whole = files.covered(modules(files.architecture(name), files.shapes(name)))
        times = sum(math.prod(m.shape) for m in whole) / sum(math.prod(m.shape) for m in chosen)
        print(
            f"all blocks have {times:.1f} times as many weights: cold {cold * times:.0f} s, warm {warm * times:.1f} s"
        )
    for recipes in base:
        print(f"recipe / cold: {recipes / cold:.2f} (at least 8); recipe / warm: {recipes / warm:.1f} (at least 40)")
    if every == 1 and device == "cpu":
        memory(folder, name, spectrum, blocks=blocks)


def machine(device: str) -> str:
    """The processor, or the GPU that computes, and the version of torch."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _model(name: str, blocks: int | None) -> str:
    return name if blocks is None else f"{name} of {blocks} block{'s' * (blocks != 1)} of each kind"


def _ours(source: Path, target: Path, adapter: Path, cache: Path, out: Path, method: str, device: str = "cpu") -> None:
    runtime = lib_transfer.Runtime(device=device, cache_folder=cache, cache_limit=10**12)
    request = lib_transfer.request(adapter, source=source, target=target, method=method, runtime=runtime)
    result = lib_transfer.transfer(request, lib_transfer.Destination(folder=out), runtime=runtime)
    assert result.status == "written"


def _read_and_write(source: Path, target: Path, adapter: Path, cache: Path, out: Path, chosen: list) -> None:
    """What no implementation can do without: the adapter in and out, the cache's entries, the covered weights."""
    lora = {}
    with open_checkpoint(adapter) as file:
        lora = {key: file.read(key) for key in file.shapes}
    for path in (source, target):
        with open_checkpoint(path) as file:
            for module in chosen:
                read_weight(file, module)
    for _, path in Cache(cache).files():
        with open_checkpoint(path) as file:
            for key in file.shapes:
                file.read(key)
    write_adapter(out / "copy.safetensors", lora, {}, overwrite=True)


def _print_cache(cache: Path, covered: int) -> None:
    sizes = Cache(cache).contents().bytes
    pairs = sizes.get("similarities", 0) + sizes.get("principal", 0)
    print(
        f"cache: weight entries {sizes['weights'] / 1e6:.0f} MB, pair entries {pairs / 1e6:.0f} MB; "
        f"the fp16 weights they cover: {covered / 1e6:.0f} MB"
    )


def memory_child(source: Path, target: Path, adapter: Path, folder: Path, method: str) -> None:
    """In a process of its own: transfer once and print the peak."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    torch.ones(8, 8) @ torch.ones(8, 8)
    before = peak = anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    _ours(source, target, adapter, folder / "cache", folder / "out", method)
    done.set()
    watcher.join()
    shutil.rmtree(folder)
    print(f"peak anonymous memory, cold: {(peak - before) / 2**20:.0f} MB over the interpreter with torch imported")


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's anonymous memory")


def _time(what: str, work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    print(f"{took:8.2f} s  {what}", flush=True)
    return took


if __name__ == "__main__":
    memory_child(*map(Path, sys.argv[1:-1]), sys.argv[-1])
