"""Time per adapter of a batch of rank-16 adapters with a warm cache, against what no batch can do without.

Processor seconds of one core are compared, which tell the same on a busy machine; the clock's are printed beside them.
"""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import lib_transfer
from lib_transfer import methods
from lib_transfer.architecture import modules, reference
from lib_transfer.batches.convert import convert
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.plan import BatchPlan, plan
from lib_transfer.batches.processes import in_processes
from lib_transfer.batches.task import Task, tasks
from lib_transfer.batches.watch import SilentWatch
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.relation import Relations
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.conversion.weights import read_weight
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.writer import write_adapter
from lib_transfer.library.adapters import find
from lib_transfer.library.base import Base, open_base
from lib_transfer.library.checkpoints import described
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.linalg import factors as linalg
from lib_transfer.methods import MethodInput
from lib_transfer.progress import Progress, Silent
from lib_transfer.storage.cache import Cache
from tests.benchmarks import files
from tests.benchmarks.speed import anonymous

RANK = 16
ROUNDS = 3


class Quiet(SilentWatch):
    """A watch that notes when the first group began."""

    began = 0.0

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        self.began = self.began or time.perf_counter()
        return self


class Bench:
    """The files of one benchmark, and a batch of all its adapters."""

    def __init__(self, folder: Path, name: str, spectrum: str, count: int, every: int, memory: int) -> None:
        self.source, self.target, _ = files.make(folder, name, spectrum, every)
        self.adapters = _adapters(folder / f"{name}-rank-{RANK}-every-{every}", name, count, every)
        self.out, self.memory = folder / "batch-out", memory
        # One core, as each worker of a batch has it.
        torch.set_num_threads(1)
        self.runtime = Runtime(device="cpu", cache_folder=folder / "batch-cache", cache_limit=10**12, workers=1)

    def planned(self) -> BatchPlan:
        """The plan for all adapters, none of which is there."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        hashes = self.runtime.hashes
        settings = TransferSettings(
            "rotation",
            methods.settings(methods.get("rotation"), {}),
            source=described([self.source], hashes),
            output=self.out,
        )
        wanted = set(self.adapters)
        found = [each for each in find([self.adapters[0].parent], recursive=False) if each.path in wanted]
        index = FileIndex(self.runtime.cache.folder)
        library = Library(index, hashes, folders=(self.out,), outputs=Outputs(index))
        return plan(found, described([self.target], hashes), settings, library, Silent())

    def groups(self, workers: int = 1) -> list[Task]:
        """The same in groups."""
        planned = self.planned()
        return tasks(planned, self.runtime, Costs(planned), memory=self.memory, workers=workers)

    def in_this_process(self) -> None:
        """The batch, plan and all, computed by one thread."""
        assert {outcome.status for group in self.groups() for outcome in convert(group, Quiet())} == {"written"}

    def with_workers(self, workers: int) -> float:
        """Seconds per adapter in so many processes, from when the first group was begun."""
        watch = Quiet()
        assert {o.status for o in in_processes(self.groups(workers), watch, workers)} == {"written"}
        return (time.perf_counter() - watch.began) / len(self.adapters)

    def mathematics(self) -> tuple[float, float]:
        """Processor and clock seconds of thin products and recompressions alone, everything being in memory."""
        how, cpu, clock = methods.get("rotation"), 0.0, 0.0
        hashes = self.runtime.hashes
        with ExitStack() as stack:
            paths = (self.source, self.target)
            bases = [stack.enter_context(open_base(path, hashes.sha256(path))) for path in paths]
            adapters = [stack.enter_context(open_adapter(path)).groups for path in self.adapters]
            for name in adapters[0]:
                problems = _in_memory(name, bases, self.runtime.cache, adapters)
                with torch.inference_mode():
                    began = time.process_time(), time.perf_counter()
                    for problem in problems:
                        linalg.balanced(how.transfer(problem), RANK)
                    cpu, clock = cpu + time.process_time() - began[0], clock + time.perf_counter() - began[1]
        return cpu, clock

    def files_alone(self) -> None:
        """Pure reading and writing: adapters in and out, cache entries and weights once for a group."""
        for group in self.groups():
            contents = [_tensors(item.path) for item in group.items]
            names = {key.partition(".")[0] for key in contents[0]}
            for path in (self.source, self.target):
                with open_base(path, "") as base:
                    for name in names:
                        read_weight(base.checkpoint, base.by_adapter_name[name][0].module)
            for _, path in Cache(self.runtime.cache.folder).files():
                _tensors(path)
            for item, tensors in zip(group.items, contents, strict=True):
                write_adapter(self.out / f"{item.name}.safetensors", tensors, {}, overwrite=True)

    def peak(self) -> int:
        """Anonymous memory of this process at its highest during a batch, over what it is before."""
        before = peak = anonymous()
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.01):
                peak = max(peak, anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        self.in_this_process()
        done.set()
        watcher.join()
        return peak - before


def run(folder: Path, name: str, spectrum: str, count: int, every: int, gigabytes: float) -> None:
    """Measure and print."""
    bench = Bench(folder, name, spectrum, count, every, int(gigabytes * 2**30))
    covered = len(_tensors(bench.adapters[0])) // 3
    print(
        f"{name}, {spectrum} spectra, {count} adapters of rank {RANK} with {covered} modules, {gigabytes:g} GB: "
        f"{len(bench.groups())} groups; torch {torch.__version__}",
        flush=True,
    )
    cpu, clock = _timed(lambda: _one(bench))
    print(f"the first one, cold: {cpu:.1f} s of processors, {clock:.1f} s", flush=True)
    kinds: dict[str, Callable[[], tuple[float, float]]] = {
        "thin products and recompressions": bench.mathematics,
        "the batch": lambda: _timed(bench.in_this_process),
        "reading and writing": lambda: _timed(bench.files_alone),
    }
    # Turn and turn about, so that what else the machine does falls on all of them.
    took: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, measure in kinds.items():
            took[kind].append(measure())
    for kind, times in took.items():
        each = ", ".join(f"{1000 * cpu / count:.0f} ({1000 * clock / count:.0f})" for cpu, clock in times)
        print(f"  {kind}: {each} ms of a processor (of the clock) per adapter", flush=True)
    ratios = [
        batch[0] / alone[0]
        for batch, alone in zip(took["the batch"], took["thin products and recompressions"], strict=True)
    ]
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"batch / thin products and recompressions: {statistics.median(ratios):.2f} (at most 1.3; each: {each})")
    one, two = (min(bench.with_workers(workers) for _ in range(2)) for workers in (1, 2))
    print(f"one worker {1000 * one:.0f} ms, two {1000 * two:.0f} ms per adapter: {one / two:.2f} times (at least 1.6)")
    print(f"peak anonymous memory of a batch: {bench.peak() / 2**20:.0f} MB of {gigabytes * 1024:.0f} MB")


def _adapters(place: Path, name: str, count: int, every: int) -> list[Path]:
    """So many adapters of every so manieth module, made if they are not there."""
    place.mkdir(parents=True, exist_ok=True)
    architecture = files.architecture(name)
    chosen = files.covered(modules(architecture, reference(architecture)))[::every]
    paths = [place / f"style-{number:03}.safetensors" for number in range(count)]
    for number, path in enumerate(paths):
        if path.exists():
            continue
        generator, tensors = torch.Generator().manual_seed(number), {}
        for module in chosen:
            out, into = module.matrix_shape
            up, down = torch.randn(out, RANK, generator=generator), torch.randn(RANK, into, generator=generator)
            tensors |= lora_tensors(str(module.output_name), 0.01 * up, 0.01 * down, None, torch.float16)
        write_adapter(path, tensors, {"ss_network_dim": str(RANK)})
    return paths


def _in_memory(name: str, bases: list[Base], cache: Cache, adapters: list[Any]) -> list[MethodInput]:
    """One module's problem for every adapter, with every tensor in memory."""
    module = bases[0].by_adapter_name[name][0].module
    relate = Relations(bases[0], bases[1], Wanted(0.99, None), cache, torch.device("cpu"))
    relation = relate(module, bases[1].by_name[module.name])
    shared = (*relation.subspaces, *relation.turns)
    factors = [groups[name].update().factors for groups in adapters]
    return [MethodInput(pair, *shared) for pair in factors if pair is not None]


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as file:
        return {key: file.read(key) for key in file.shapes}


def _one(bench: Bench) -> None:
    """Fill the cache."""
    shutil.rmtree(bench.runtime.cache.folder, ignore_errors=True)
    two = dataclasses.replace(bench.runtime, workers=2)
    request = lib_transfer.request(bench.adapters[0], source=bench.source, target=bench.target, runtime=two)
    lib_transfer.analyse(request, runtime=two)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Processor and clock seconds."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock
