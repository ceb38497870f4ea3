"""The limit on the GPU's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def limited(gigabytes: float) -> Iterator[None]:
    """Limit this process to so many gigabytes of GPU memory more than it holds now; the limit ends with the block.

    The limit holds for the whole process, so it may be set only while no picture is being made.
    """
    _, total = torch.cuda.mem_get_info()
    share = (torch.cuda.memory_reserved() + gigabytes * 2**30) / total
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
