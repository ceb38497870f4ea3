"""The steps of a batch in this process: ask, plan, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib_transfer import methods as registry
from lib_transfer.batches.convert import convert_all
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.plan import BatchPlan, plan
from lib_transfer.batches.request import BatchRequest
from lib_transfer.batches.task import MEMORY, Task, tasks
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.library.found import find
from lib_transfer.library.index import FileIndex
from lib_transfer.library.sources import described, installed
from lib_transfer.progress import Silent
from tests.batches.conftest import World


class Quiet:
    """A watch that says nothing, and never stops."""

    def group(self, worker: int, names: tuple[str, ...]) -> None: ...

    def stretch(self, worker: int, total: int, what: str) -> None: ...

    def step(self, worker: int) -> None: ...

    def settled(self, outcome: Outcome) -> None: ...

    def cancelled(self) -> bool:
        return False

    def left_out(self, name: str) -> bool:
        return False


def ask(
    world: World, *folders: Path, method: str = "rotation", settings: dict[str, Any] | None = None, **more: Any
) -> BatchRequest:
    """A request whose adapters say what they were trained on, unless a source is given."""
    hashes = world.runtime.hashes
    more.setdefault("installed", installed(world.checkpoints, hashes))
    checked = registry.settings(registry.get(method), settings or {})
    target = described(more.pop("target", world.target), "tuned.safetensors", hashes)
    return BatchRequest(target, method, checked, tree=(*folders, *filter(None, [more.get("output")])), **more)


def look(
    world: World, *folders: Path, progress: Any = None, batch: BatchRequest | None = None, **more: Any
) -> BatchPlan:
    """The plan for everything in ``folders``."""
    found = find(folders, recursive=True)
    batch = batch or ask(world, *folders, **more)
    index = FileIndex(world.cache)
    return plan(found, batch, index=index, hashes=world.runtime.hashes, progress=progress or Silent())


def grouped(world: World, planned: BatchPlan, memory: int = MEMORY, workers: int = 1) -> list[Task]:
    return tasks(planned, world.runtime, Costs(planned.batch), memory=memory, workers=workers)


def go(world: World, planned: BatchPlan, watch: Any = None, **more: Any) -> dict[str, Outcome]:
    """Convert; what became of each adapter that was to be converted."""
    return {o.name: o for o in convert_all(grouped(world, planned, **more), watch or Quiet())}


def batch(world: World, *folders: Path, **more: Any) -> dict[str, Outcome]:
    """Plan and convert; what became of every file."""
    planned = look(world, *folders, **more)
    return {**planned.settled, **go(world, planned)}


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in ``folder`` and below by its relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
