"""What converting an adapter takes in memory and on disk, from the headers of its file and of the target."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lib_transfer.architecture.module import Module
from lib_transfer.batches.plan import BatchPlan
from lib_transfer.conversion.compact import LARGEST_RANK
from lib_transfer.conversion.output import DTYPES
from lib_transfer.errors import TransferError
from lib_transfer.formats.adapter import Group
from lib_transfer.formats.adapter_file import outline_adapter
from lib_transfer.formats.algorithms import LORA, lora
from lib_transfer.library.base import Base, open_base
from lib_transfer.library.decide import Convert

SAMPLE = 12
"""Adapters whose modules are looked at to tell of many; the rest are taken to be like these, by their size."""

PER_ELEMENT = 32
"""Bytes of memory per element of the weight at work, all of it in float32: two weights, two bases, what they are made from."""

HEADER = 4096
"""Bytes that an output says more of itself than its parent does."""

_WIDTHS = {"F64": 8, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True)
class Work:
    """One module that an adapter changes, and the rank that its output has, at most."""

    module: Module
    rank: int


class Costs:
    """What the adapters of one plan take.

    Raises:
        TransferError: the target cannot be read.
    """

    def __init__(self, plan: BatchPlan) -> None:
        self._settings = plan.settings
        self._known: dict[str, list[Work]] = {}
        with open_base(plan.target.path, "") as target:
            self._target: Base = target

    def output_bytes(self, item: Convert) -> int:
        """The size of the output, at most."""
        if set(item.facts.algorithms) == {LORA.title}:
            growth = self._width(item) / _WIDTHS.get(item.facts.dtype, 2) * self._growth(item)
            return HEADER + math.ceil(item.size * growth)
        return HEADER + sum(_bytes(work) for work in self.work(item)) * self._width(item)

    def work(self, item: Convert) -> list[Work]:
        """What the adapter changes; empty where its file cannot be read any more."""
        if item.name not in self._known:
            groups: Collection[Group] = ()
            with contextlib.suppress(TransferError):
                groups = outline_adapter(item.path).groups.values()
            self._known[item.name] = [
                Work(binding.module, self._rank(group))
                for group in groups
                for binding in self._target.by_adapter_name.get(group.name, ())
                if len(binding.module.shape) > 1
            ]
        return self._known[item.name]

    def largest_weight(self, items: Sequence[Convert]) -> int:
        """Elements of the largest weight that some of ``items`` change."""
        shapes = [work.module.matrix_shape for item in sample(items) for work in self.work(item)]
        return max((out * into for out, into in shapes), default=0)

    def _rank(self, group: Group) -> int:
        rank = self._settings.values.get("rank")
        own = group.tensors[lora.DOWN].shape[0] if lora.DOWN in group.tensors else LARGEST_RANK
        return rank if isinstance(rank, int) else own

    def _width(self, item: Convert) -> int:
        """Bytes per number of the output."""
        chosen = self._settings.values.get("dtype")
        return DTYPES[chosen].itemsize if isinstance(chosen, str) else min(_WIDTHS.get(item.facts.dtype, 2), 4)

    def _growth(self, item: Convert) -> float:
        """How much larger the output's rank is than the input's, at most."""
        rank = self._settings.values.get("rank")
        if isinstance(rank, int):
            return rank / max(min(item.facts.ranks, default=rank), 1)
        return 2.0 if rank == "full" and self._settings.method == "prolora" else 1.0


def sample(items: Sequence[Convert]) -> Sequence[Convert]:
    """A few of ``items``, from the whole range."""
    return items[:: max(math.ceil(len(items) / SAMPLE), 1)]


def _bytes(work: Work) -> int:
    out, into = work.module.matrix_shape
    return min(work.rank * (out + into), out * into)
