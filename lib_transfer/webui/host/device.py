"""The limit on the GPU's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(gigabytes: float) -> Iterator[None]:
    """Let this process take at most that much more GPU memory than it holds now.

    The limit is the process's own, so it may be set only while no picture is being made; it is taken back at the end.
    """
    import torch  # noqa: PLC0415 - the tab is built without it

    _, total = torch.cuda.mem_get_info()
    share = (torch.cuda.memory_reserved() + gigabytes * 2**30) / total
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
