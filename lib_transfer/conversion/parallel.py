"""Work on many modules at a time, each with one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from lib_transfer.errors import NotEnoughMemoryError
from lib_transfer.progress import Progress, check

T = TypeVar("T")
R = TypeVar("R")


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
