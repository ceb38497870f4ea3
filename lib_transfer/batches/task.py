"""Groups of adapters that fit into memory together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.batches.costs import PER_ELEMENT, Costs
from lib_transfer.batches.plan import BatchPlan
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.evaluation.verification import Runner
from lib_transfer.library.decide import Convert

MEMORY = 2 * 2**30
"""Bytes that a batch may take unless it is told otherwise: for the adapters at work, their outputs and the weights, over
what the interpreters take with torch."""


@dataclass(frozen=True)
class Task:
    """One group: adapters of one source, converted together. Small, and whole in itself: it can be sent to another machine.

    Attributes:
        items: the adapters.
        runtime: how it is computed.
        taken: file names, without ending and casefolded, that no output may get anew.
        begins: the share of the modules to begin at; groups that run side by side begin at different ones, so that what one of
            them computes for the cache the others find there. It does not change the result.
        keeps_reports: whether outcomes have whole reports; those of many adapters would be too much to keep, and to send.
        models: what runs the models, where the method does; None for networks of diffusers.
    """

    items: tuple[Convert, ...]
    runtime: Runtime
    taken: frozenset[str] = frozenset()
    begins: float = 0.0
    keeps_reports: bool = False
    models: Runner | None = None


def tasks(
    plan: BatchPlan,
    runtime: Runtime,
    costs: Costs,
    *,
    memory: int = MEMORY,
    workers: int = 1,
    models: Runner | None = None,
) -> list[Task]:
    """The plan in groups, in the order of the names.

    Args:
        plan: what is to be converted.
        runtime: how each worker computes; where memory is scarce it gets fewer modules at a time.
        costs: what the adapters take.
        memory: bytes that all workers together may take. A group has one adapter at least.
        workers: how many groups run at a time.
        models: what runs the models, where the method does.
    """
    by_source: dict[Path | None, list[Convert]] = {}
    for item in plan.items:
        by_source.setdefault(item.source.path if item.source else None, []).append(item)
    room = memory // workers
    made: list[Task] = []
    if plan.settings.how.runs_models:
        # Both models are loaded for every adapter, so nothing is won by converting some together.
        return [Task((item,), runtime, plan.taken, models=models) for items in by_source.values() for item in items]
    for items in by_source.values():
        at_work = max(PER_ELEMENT * costs.largest_weight(items), 1)
        threads = max(min(runtime.threads, room // (2 * at_work)), 1)
        how = dataclasses.replace(runtime, workers=threads)
        needs = [item.size + costs.output_bytes(item) for item in items]
        for group in _cut(items, needs, room - threads * at_work, workers):
            made.append(Task(tuple(group), how, plan.taken, len(made) % workers / workers))
    return made


def _cut(items: Sequence[Convert], needs: Sequence[int], room: int, workers: int) -> list[list[Convert]]:
    """``items`` in groups of about one size, as few as fit into ``room`` bytes each and give every worker its share."""
    largest = max(room, *needs)
    fewest = math.ceil(sum(needs) / largest)
    count = min(math.ceil(fewest / workers) * workers, len(items))
    even = sum(needs) / count
    groups: list[list[Convert]] = [[]]
    filled = total = 0.0
    for item, need in zip(items, needs, strict=True):
        if groups[-1] and (filled + need > largest or total + need / 2 > even * len(groups)):
            groups.append([])
            filled = 0.0
        groups[-1].append(item)
        filled += need
        total += need
    return groups
