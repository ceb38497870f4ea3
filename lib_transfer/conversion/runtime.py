"""How a request is computed: device, cache folder, threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from lib_transfer.errors import RequestError
from lib_transfer.storage.cache import DEFAULT_LIMIT, Cache, default_folder
from lib_transfer.storage.hashes import Hashes


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

    @cached_property
    def cache(self) -> Cache:
        """The cache on disk; one for all that is computed with this, so that it is told once when it cannot be written."""
        return Cache(self.cache_folder or default_folder(), limit=self.cache_limit)

    @cached_property
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
