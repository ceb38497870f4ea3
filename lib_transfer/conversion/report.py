"""What came through, module by module, and in sums; the sentences about it are in :mod:`~.verdict`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lib_transfer.architecture.module import Module, Position
from lib_transfer.conversion.accounts import Accounts, account
from lib_transfer.conversion.decision import NOT_READ, WRITTEN, Decision
from lib_transfer.conversion.nearness import Nearness
from lib_transfer.conversion.relation import Similarity
from lib_transfer.conversion.verdict import text, verdict
from lib_transfer.formats.unread import Unread
from lib_transfer.formatting import rounded
from lib_transfer.version import SCHEMA

NEARLY_ALL = 0.9995
"""A share from which on nothing is known to be lost: it is read as 100 %, or as 99.9 % at the least."""


@dataclass(frozen=True)
class ModuleReport:
    """What became of one module of the adapter.

    Attributes:
        name: the module's name in the adapter.
        position: where it sits; None when no module goes by this name.
        decision: what was done; ``carried over`` is for tensors that no method changes (bias, norm, with ``copy`` also a
            full difference).
        reason: why, as a short sentence.
        similarity: the similarity of the weights' subspaces, where it was computed.
        rank_before, rank_after: the rank of the low-rank update.
        norm_before, norm_after: Frobenius norms of the update read and of the one written. None before, where it takes a
            weight that is not there to know it: :class:`Totals` cannot count it then, and says of how many that is so.
        energy_kept: share of the update's squared norm that was written, before ``strength``.
        change: ``||D_t - D|| / ||D||``: how far the result is from plain reuse, where the shapes agree.
        target: the name it is written under, where it goes to a module of another name.
        tensors: the full names of the tensors that it stands for; those of a fused weight are in the report of every part.
        left: those of them that are not carried although the module is, with reasons.
        inserted: the names in inserted blocks under which the same is written.
    """

    name: str
    position: Position | None
    decision: Decision
    reason: str
    similarity: Similarity | None = None
    rank_before: int | None = None
    rank_after: int | None = None
    norm_before: float | None = None
    norm_after: float | None = None
    energy_kept: float | None = None
    change: float | None = None
    target: str = ""
    tensors: tuple[str, ...] = ()
    left: tuple[Unread, ...] = ()
    inserted: tuple[str, ...] = ()

    @property
    def written(self) -> bool:
        """Whether the output holds this module."""
        return self.decision in WRITTEN

    @property
    def carried(self) -> tuple[str, ...]:
        """The tensors that the output stands for."""
        left = {key for item in self.left for key in item.tensors}
        return tuple(key for key in self.tensors if key not in left) if self.written else ()


@dataclass(frozen=True)
class Totals:
    """Sums over a set of modules.

    Attributes:
        modules, written: how many there are, and how many the output holds.
        unmeasured: the number of those that were not written and whose size is not known.
        energy_kept: share of their squared norms that was written. Where ``unmeasured`` is not 0 it is at most this; None
            where it is not known at all: none has a norm, or nothing but the unmeasured was lost.
        lowest, mean: the lowest and the mean smaller similarity; None where none was computed.
    """

    modules: int
    written: int
    unmeasured: int
    energy_kept: float | None
    lowest: float | None
    mean: float | None


@dataclass(frozen=True)
class TransferReport:
    """The whole story of one transfer.

    Attributes:
        request: the request as JSON (:meth:`~lib_transfer.library.request.TransferRequest.to_json`), parsed.
        method: title of the method.
        source_architecture, target_architecture: titles; None without a source.
        modules: the reports of the modules, in the order of the adapter, those that no module goes by last.
        unread: tensors of the adapter that no module report stands for.
        notes: further things a person should know, as sentences; they are part of the verdict.
        file: the full names of all tensors of the adapter's file.
        bundled: those of them that are embeddings and carried as they are.
        near: how far apart the weights of source and target are, where both are of one architecture.
    """

    request: dict[str, Any]
    method: str
    source_architecture: str | None
    target_architecture: str
    modules: tuple[ModuleReport, ...]
    unread: tuple[Unread, ...]
    notes: tuple[str, ...] = ()
    file: tuple[str, ...] = ()
    bundled: tuple[str, ...] = ()
    near: Nearness | None = None

    @cached_property
    def totals(self) -> Totals:
        """Over all modules, those that could not be read among them."""
        unread = sum(item.noun == "module" for item in self.unread)
        lost = math.fsum(item.size**2 for item in self.unread if item.size is not None)
        return totals(self.modules, unread=unread, lost=lost, unmeasured=sum(item.unmeasured for item in self.unread))

    @cached_property
    def accounts(self) -> Accounts:
        """Where every tensor of the file went."""
        written = [module for module in self.modules if module.written]
        # What one part of a fused weight has no place for, another one may have.
        carried = {key for module in written for key in module.carried}
        left = [item for module in written for item in module.left]
        lost = [Unread(m.name, m.tensors, m.decision, m.reason) for m in self.modules if not m.written]
        return account(self.file, (*carried, *self.bundled), (*left, *lost, *self.unread))

    @property
    def changes_nothing(self) -> bool:
        """Whether every update of the adapter is known to be zero."""
        known = [module.norm_before for module in self.modules] + [
            item.size for item in self.unread if item.size is not None
        ]
        return bool(self.modules) and not any(known) and self.totals.unmeasured == 0 and not self.bundled

    def by_stage(self) -> dict[tuple[str, str], Totals]:
        """Totals per (part, stage), in the order of the forward pass.

        What was lost without a known size and without a known place may be of any of them: it is in ``unmeasured`` of each.
        """
        groups: dict[tuple[str, str], list[ModuleReport]] = {}
        placed = [m for m in self.modules if m.position is not None]
        for module in sorted(placed, key=lambda m: _order(m.position)):
            assert module.position is not None
            groups.setdefault((module.position.part, module.position.stage), []).append(module)
        anywhere = self.totals.unmeasured - totals(placed).unmeasured
        return {key: totals(modules, unmeasured=anywhere) for key, modules in groups.items()}

    @property
    def change(self) -> float | None:
        """Distance of the written modules from plain reuse, relative to their norm; None where nothing can be compared."""
        known = [m for m in self.modules if m.written and m.change is not None and m.norm_before is not None]
        before = math.fsum((m.norm_before or 0) ** 2 for m in known)
        moved = math.fsum(((m.change or 0) * (m.norm_before or 0)) ** 2 for m in known)
        return math.sqrt(moved / before) if before > 0 else None

    @property
    def verdict(self) -> str:
        """How much was carried, how far from plain reuse it is, and what this does not say."""
        return " ".join(verdict(self))

    @property
    def decisions(self) -> dict[str, int]:
        """How many modules there are of each decision, "not read" among them."""
        unread = sum(item.noun == "module" for item in self.unread)
        counts = Counter(str(module.decision) for module in self.modules)
        return {**counts, **({NOT_READ: unread} if unread else {})}

    def summary(self) -> dict[str, Any]:
        """The few facts that are written into the output's metadata."""
        t = self.totals
        return {
            "schema": SCHEMA,
            "modules": t.modules,
            "decisions": dict(sorted(self.decisions.items())),
            **self.accounts.facts(),
            "energy_kept": rounded(t.energy_kept),
            "unmeasured": t.unmeasured,
            "changes_nothing": self.changes_nothing,
            "lowest_similarity": rounded(t.lowest),
            "mean_similarity": rounded(t.mean),
            "change_from_reuse": rounded(self.change),
            "verdict": self.verdict,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            **self.summary(),
            "request": self.request,
            "method": self.method,
            "source_architecture": self.source_architecture,
            "target_architecture": self.target_architecture,
            "stages": [{"part": part, "stage": stage, **asdict(t)} for (part, stage), t in self.by_stage().items()],
            "module_reports": [_module_dict(m) for m in self.modules],
            "unread": [asdict(u) for u in self.unread],
            "notes": list(self.notes),
            "weights_apart": None if self.near is None else {k: rounded(v) for k, v in asdict(self.near).items()},
        }

    def to_text(self) -> str:
        """For a terminal: verdict, totals per part and stage, reasons."""
        return text(self)


def totals(modules: Iterable[ModuleReport], *, unread: int = 0, lost: float = 0.0, unmeasured: int = 0) -> Totals:
    """Sums over ``modules``.

    Args:
        modules: the reports.
        unread: how many further modules could not be read.
        lost: squared norm of what else was not carried.
        unmeasured: the number of further losses whose size is not known.
    """
    modules = list(modules)
    normed = [m for m in modules if m.norm_before is not None]
    before = math.fsum((m.norm_before or 0) ** 2 for m in normed) + lost
    after = math.fsum((m.energy_kept or 0) * (m.norm_before or 0) ** 2 for m in normed if m.written)
    share = after / before if before > 0 else None
    unmeasured += sum(m.norm_before is None and not m.written for m in modules)
    smaller = [m.similarity.smaller for m in modules if m.similarity is not None and m.similarity.smaller is not None]
    return Totals(
        modules=len(modules) + unread,
        written=sum(m.written for m in modules),
        unmeasured=unmeasured,
        energy_kept=None if unmeasured and share is not None and share >= NEARLY_ALL else share,
        lowest=min(smaller, default=None),
        mean=math.fsum(smaller) / len(smaller) if smaller else None,
    )


def similarity_dict(similarity: Similarity | None) -> dict[str, Any] | None:
    """A similarity for JSON."""
    return None if similarity is None else {k: rounded(v) for k, v in asdict(similarity).items()}


def module_row(module: Module) -> dict[str, Any]:
    """Where a module sits, for JSON."""
    return {"module": module.name, **asdict(module.position), "shape": list(module.shape)}


def _module_dict(module: ModuleReport) -> dict[str, Any]:
    return {
        "name": module.name,
        **(asdict(module.position) if module.position else {}),
        "decision": module.decision,
        "reason": module.reason,
        "target": module.target,
        "similarity": similarity_dict(module.similarity),
        "rank_before": module.rank_before,
        "rank_after": module.rank_after,
        **{name: rounded(getattr(module, name)) for name in ("norm_before", "norm_after", "energy_kept", "change")},
        "tensors": list(module.tensors),
        "left": [asdict(item) for item in module.left],
        **({"inserted": list(module.inserted)} if module.inserted else {}),
    }


def _order(position: Position | None) -> tuple[str, int]:
    return ("", 0) if position is None else (position.part, position.depth)
