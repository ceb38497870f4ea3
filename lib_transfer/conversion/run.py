"""Run a request: all modules of an adapter, several at a time, each with one thread."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.subspaces import Relation, Wanted, Weight
from lib_transfer.errors import NotEnoughMemoryError, RequestError
from lib_transfer.library.base import Base
from lib_transfer.progress import Progress, check
from lib_transfer.storage.cache import DEFAULT_LIMIT, Cache, default_folder
from lib_transfer.storage.hashes import Hashes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Runtime:
    """How a request is computed; none of it changes the result.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``; auto takes a GPU where there is one. (Results on different devices agree
            within rounding.)
        cache_folder: where decompositions are kept; None for the default one.
        cache_limit: bytes that the cache may take.
        workers: how many modules are computed at a time; None for one per processor, at most four.
    """

    device: str = "auto"
    cache_folder: Path | None = None
    cache_limit: int = DEFAULT_LIMIT
    workers: int | None = None

    @property
    def cache(self) -> Cache:
        """The cache on disk."""
        return Cache(self.cache_folder or default_folder(), limit=self.cache_limit)

    @property
    def hashes(self) -> Hashes:
        """The memory of content hashes, in the same folder."""
        return Hashes(self.cache_folder or default_folder())

    @property
    def torch_device(self) -> torch.device:
        """The device to compute on.

        Raises:
            RequestError: a GPU is asked for and there is none, or the word is unknown.
        """
        if self.device not in ("auto", "cpu", "cuda"):
            raise RequestError(f'There is no device "{self.device}".', hint="Devices: auto, cpu, cuda.")
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise RequestError("This torch finds no CUDA device.", hint="Take the device auto or cpu.")
        return torch.device("cuda" if there and self.device != "cpu" else "cpu")

    @property
    def threads(self) -> int:
        """How many modules are computed at a time; on a GPU one, which keeps its memory free for others."""
        return self.workers or (1 if self.torch_device.type == "cuda" else min(os.cpu_count() or 1, 4))


@dataclass(frozen=True)
class Relations:
    """The weights of two bases, and how they lie to each other.

    Attributes:
        source, target: the bases; both are the target where there is no source.
        wanted: the subspace rank.
        cache: where results are kept.
        device: where the mathematics is done.
        kept: what was asked for already, where it is kept (see :meth:`keeping`).
    """

    source: Base
    target: Base
    wanted: Wanted
    cache: Cache
    device: torch.device
    kept: dict[Any, Any] | None = field(default=None, compare=False, repr=False)

    def __call__(self, of_source: Module, of_target: Module) -> Relation:
        """The relation of a source module's weight to a target module's."""
        return self._once(
            (of_source.name, of_target.name),
            lambda: Relation(
                self._weight(self.source, of_source, self.device),
                self._weight(self.target, of_target, self.device),
                self.wanted,
                self.cache,
            ),
        )

    def source_weight(self, module: Module) -> Tensor:
        """A source module's weight in float32 and its own shape, on the CPU.

        Raises:
            NumericError: it holds NaN or infinity.
        """
        return self._weight(self.source, module, torch.device("cpu")).sound().reshape(module.shape)

    def keeping(self) -> Relations:
        """The same, but a weight or a relation that was asked for stays in memory: for several updates of one module."""
        return dataclasses.replace(self, kept={})

    def _weight(self, base: Base, module: Module, device: torch.device) -> Weight:
        def make() -> Weight:
            return Weight(base.checkpoint, base.identity(module), module, device)

        return self._once((base.path, module.name, device), make)

    def _once(self, key: Any, make: Callable[[], R]) -> R:
        if self.kept is None:
            return make()
        if key not in self.kept:
            self.kept[key] = make()
        found: R = self.kept[key]
        return found


def over_modules(
    items: Sequence[T], work: Callable[[T], R], name: Callable[[T], str], threads: int, progress: Progress
) -> list[R]:
    """``work`` on every item, several at a time; results in the order of the items.

    Every worker computes with a single thread, so the results do not depend on how many there are.

    Raises:
        CancelledError: the person asked to stop; the modules under way are finished first.
        NotEnoughMemoryError: there is too little memory for a module.
    """

    def one(item: T) -> R:
        check(progress)
        with torch.inference_mode():
            result = work(item)
        progress.step(name(item))
        return result

    with one_thread_each(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            return [future.result() for future in futures]
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, NotEnoughMemoryError) or not _is_memory(error):
                raise
            raise NotEnoughMemoryError(
                f"There is not enough memory: {error}.", hint="Close other programs, or take the device cpu."
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _is_memory(error: Exception) -> bool:
    """Whether there was too little memory; on the CPU, torch says so with a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("not enough memory", "can't allocate memory", "out of memory"))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Torch computes with one thread per worker and without TF32, which the hosts turn on; both are put back."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32
