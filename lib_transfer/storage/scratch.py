"""Parts of an output that wait for the others: in memory while they are few, in a temporary file when they are many.

An adapter of full-size SDXL whose updates have no rank of their own comes out with more than a gigabyte. The C library's
allocator would keep several times that: what is small and stays takes its place in the room of what was large and is free,
and the next large one then needs new room. So it is asked now and then to give its free pages back to the system.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

IN_MEMORY = 256 * 2**20
"""How many bytes are kept in memory before the rest goes to the file."""

BETWEEN = 16 * 2**20
"""After how many bytes more the allocator is asked to give back what is free."""


class Spool:
    """Keeps tensors, at most about ``in_memory`` bytes of them in memory.

    Its file has no name where the system allows it, so nothing is left behind however the process ends.

    Args:
        folder: where the file is made once it is needed; where that fails, everything stays in memory.
        in_memory: bytes that are kept in memory.
    """

    def __init__(self, folder: Path, in_memory: int = IN_MEMORY) -> None:
        self._folder, self._room = folder, in_memory
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._since = 0

    def keep(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors, of the CPU and contiguous; those that came out of memory read from the file."""
        with self._lock:
            kept = {name: self._kept(tensor) for name, tensor in tensors.items()}
            if self._since >= BETWEEN:
                self._since = 0
                _trim()(0)
            return kept

    def _kept(self, tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        self._since += size
        if size <= self._room or size == 0:
            self._room -= size
            return tensor
        try:
            return self._written(tensor, size)
        except OSError:
            # A full or read-only disk is the output's matter, which is told when that is written.
            return tensor

    def _written(self, tensor: Tensor, size: int) -> Tensor:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - open as long as what it holds
        # A mapping begins at a multiple of the system's granularity.
        start = -(-self._file.seek(0, 2) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._file.seek(start)
        self._file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        self._file.flush()
        # Private, so that torch may take it for writable memory; nobody writes, so it stays the file's pages.
        mapped = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_COPY, offset=start)
        return torch.frombuffer(mapped, dtype=tensor.dtype).reshape(tensor.shape)


@functools.cache
def _trim() -> Callable[[int], object]:
    """``malloc_trim`` of the GNU C library; elsewhere nothing."""
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda _: None
    return trim
