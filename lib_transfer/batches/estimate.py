"""How long a batch will take, and how much disk: a model of the work, with the speed of this machine put in."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch

from lib_transfer.architecture.module import Module
from lib_transfer.batches.costs import Costs, Work, sample
from lib_transfer.batches.plan import BatchPlan
from lib_transfer.batches.task import Task
from lib_transfer.conversion.decompositions import is_known
from lib_transfer.conversion.parallel import one_thread_each
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.conversion.weights import Weight
from lib_transfer.errors import TransferError
from lib_transfer.evaluation.runs import expected_runs
from lib_transfer.evaluation.verification import INPUTS
from lib_transfer.formatting import duration, size
from lib_transfer.library.base import open_base
from lib_transfer.storage.cache import Cache

READING = 1.5e9
"""Bytes per second that are read from the page cache and checked on one core (measured: 1 to 3 GB/s)."""

PER_MODULE = 2e-3
"""Seconds for the small decompositions and all else that does not grow with a module (measured)."""

TYPICAL_RANK = 64
"""What an update without a rank of its own mostly comes to."""

PROBE = 320
"""Size of the matrices that the machine's speed is measured with."""


@dataclass(frozen=True)
class Estimate:
    """What a batch will take.

    Attributes:
        seconds: the time that it takes, about; None where that is not known.
        disk: bytes of the outputs, at most.
        free: bytes that are free where they go; None where that cannot be told.
        runs: how often models are run, at most.
    """

    seconds: float | None
    disk: int
    free: int | None
    runs: int = 0

    def __str__(self) -> str:
        free = "" if self.free is None else f", of {size(self.free)} that are free"
        time = "" if self.seconds is None else f"about {duration(self.seconds)}"
        runs = f"at most {self.runs} runs of the models{', ' if time else ''}" if self.runs else ""
        how = f"{runs}{time}"
        said = f"{how[:1].upper()}{how[1:]}, and at most {size(self.disk)} of disk{free}."
        short = self.free is not None and self.disk > self.free
        return f"{said} That may be too little room; what fits will be written." if short else said


@dataclass(frozen=True)
class Speed:
    """Of one core: seconds per operation of a thin product, and per operation (``n^3``) of a symmetric eigenproblem."""

    product: float
    eigenvectors: float


def estimate(
    plan: BatchPlan,
    tasks: list[Task],
    costs: Costs,
    runtime: Runtime,
    *,
    workers: int,
    speed: Speed | None = None,
    run_seconds: float | None = None,
) -> Estimate:
    """What ``plan``, divided into ``tasks``, will take with so many ``workers``.

    Args:
        speed: the speed of this machine; measured where not given.
        run_seconds: the time that a run of a model takes, where the method runs models and that is known.
    """
    if not tasks:
        return Estimate(0.0, 0, _free(plan))
    if plan.settings.how.runs_models:
        budget = int(plan.settings.values["runs"] or 0)
        runs = len(plan.items) * expected_runs(INPUTS, 0, imitating=True, budget=budget).all
        seconds = None if run_seconds is None else runs * run_seconds
        return Estimate(seconds, sum(costs.output_bytes(item) for item in plan.items), _free(plan), runs)
    speed = speed or measured()
    chosen = sample(plan.items)
    # Costs grow with the size of the file: the sample stands for everything.
    scale = sum(item.size for item in plan.items) / max(sum(item.size for item in chosen), 1)
    warm = scale * sum(_carrying(work, plan, speed) for item in chosen for work in costs.work(item))
    files = 4 * sum(item.size for item in plan.items) / READING
    covered = {work.module.name: work.module for item in chosen for work in costs.work(item)}.values()
    shared = cold = 0.0
    if "subspaces" in plan.settings.how.needs:
        shared = len(tasks) * sum(_reading(module) for module in covered)
        cold = sum(_computing(m, speed) for m in _unknown(plan, covered, runtime.cache))
    at_a_time = min(workers * runtime.threads, len(tasks) * runtime.threads)
    disk = sum(costs.output_bytes(item) for item in plan.items)
    return Estimate((warm + files + shared + cold) / at_a_time, disk, _free(plan))


def measured() -> Speed:
    """The speed of this machine, from a few milliseconds of work of both kinds."""
    # Numbers of its own, so that the random state of the program that this runs in stays as it is.
    generator = torch.Generator().manual_seed(0)
    shapes = ((PROBE, PROBE), (1280, 16), (1280, 1280))
    square, thin, wide = (torch.randn(shape, generator=generator) for shape in shapes)
    symmetric = square @ square.T
    with one_thread_each(), torch.inference_mode():
        product = _quickest(lambda: wide @ thin) / (2 * 1280 * 1280 * 16)
        eigenvectors = _quickest(lambda: torch.linalg.eigh(symmetric)) / PROBE**3
    return Speed(product, eigenvectors)


@cache
def remembered() -> Speed:
    """The same, measured once, for who asks often: measuring takes processor time from a picture or a job that is under way."""
    return measured()


def _quickest(work: Callable[[], object]) -> float:
    def once() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return min(once() for _ in range(3))


def _carrying(work: Work, plan: BatchPlan, speed: Speed) -> float:
    """One module of one adapter, everything being in the cache: thin products with bases and weights of both sides."""
    out, into = work.module.matrix_shape
    short, rank = min(out, into), min(work.rank, TYPICAL_RANK)
    products = 2 * rank * (4 * out * into + 16 * short * short) if "subspaces" in plan.settings.how.needs else 0
    return PER_MODULE + products * speed.product


def _reading(module: Module) -> float:
    """The weights and the cache entries of one module, once for a group: both weights, both bases, principal vectors."""
    out, into = module.matrix_shape
    return (4 * out * into + 24 * min(out, into) ** 2) / READING


def _computing(module: Module, speed: Speed) -> float:
    """What the cache lacks of one weight: its Gram matrix and eigenvectors, and half of what a pair of weights has."""
    out, into = module.matrix_shape
    short = min(out, into)
    return 6 * out * into * short * speed.product + 2 * short**3 * speed.eigenvectors


def _unknown(plan: BatchPlan, covered: Iterable[Module], cache: Cache) -> list[Module]:
    """The modules of every base whose weights are not decomposed yet, once for each base."""
    bases = {item.source.path: item.source for item in plan.items if item.source is not None}
    bases[plan.target.path] = plan.target
    names = [module.name for module in covered]
    found: list[Module] = []
    for checkpoint in bases.values():
        with contextlib.suppress(TransferError), open_base(checkpoint.path, checkpoint.sha256 or "") as base:
            there = [base.by_name[name] for name in names if name in base.by_name]
            weights = [Weight(base.checkpoint, base.identity(module), module, torch.device("cpu")) for module in there]
            found += [w.module for w in weights if not is_known(w, cache)]
    return found


def _free(plan: BatchPlan) -> int | None:
    folder = plan.settings.output or next((item.path.parent for item in plan.items), None)
    while folder is not None and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free if folder is not None else None
    except OSError:
        return None
