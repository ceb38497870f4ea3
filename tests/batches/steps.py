"""The steps of a batch in this process: ask, plan, convert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer import methods
from lib_transfer.batches.convert import convert
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.plan import BatchPlan, plan
from lib_transfer.batches.task import MEMORY, Task, tasks
from lib_transfer.batches.watch import SilentWatch
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.library.adapters import find
from lib_transfer.library.checkpoints import Checkpoint, described, installed
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.progress import Silent
from tests.batches.conftest import World


@dataclass(frozen=True)
class Asked:
    """A target, how to transfer, and what there is."""

    target: Checkpoint
    settings: TransferSettings
    library: Library


def ask(
    world: World, *folders: Path, method: str = "rotation", settings: dict[str, Any] | None = None, **more: Any
) -> Asked:
    """What is asked; the adapters say what they were trained on, unless a source is given."""
    hashes = world.runtime.hashes
    target = described([more.pop("target", world.target)], hashes, name="tuned.safetensors")
    checked = methods.settings(methods.get(method), settings or {})
    index = FileIndex(world.cache)
    there = more.pop("installed", None)
    library = Library(
        index,
        hashes,
        folders=(*folders, *filter(None, [more.get("output")])),
        checkpoints=installed(world.checkpoints, hashes) if there is None else there,
        outputs=Outputs(index),
    )
    return Asked(target, TransferSettings(method, checked, **more), library)


def look(
    world: World,
    *folders: Path,
    progress: Any = None,
    asked: Asked | None = None,
    transferred: bool = False,
    **more: Any,
) -> BatchPlan:
    """The plan for everything in ``folders``."""
    found = find(folders, recursive=True)
    asked = asked or ask(world, *folders, **more)
    progress = progress or Silent()
    return plan(found, asked.target, asked.settings, asked.library, progress, transferred=transferred)


def grouped(world: World, planned: BatchPlan, memory: int = MEMORY, workers: int = 1) -> list[Task]:
    return tasks(planned, world.runtime, Costs(planned), memory=memory, workers=workers)


def go(world: World, planned: BatchPlan, watch: Any = None, **more: Any) -> dict[str, Outcome]:
    """Convert; what became of each adapter that was to be converted."""
    groups = grouped(world, planned, **more)
    return {o.name: o for group in groups for o in convert(group, watch or SilentWatch())}


def batch(world: World, *folders: Path, **more: Any) -> dict[str, Outcome]:
    """Plan and convert; what became of every file."""
    planned = look(world, *folders, **more)
    return {**planned.settled, **go(world, planned)}


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in ``folder`` and below by its relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
