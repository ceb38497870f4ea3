"""What came through, module by module, and a verdict a person understands.

The numbers say how much of the update was carried and how alike the weights are. They do not say that the LoRA works on
the target, and no text here claims it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lib_transfer.architecture.module import Module, Position
from lib_transfer.conversion.relation import Similarity
from lib_transfer.formats.unread import Unread
from lib_transfer.formatting import percent
from lib_transfer.version import SCHEMA

Decision = Literal["transferred", "copied", "carried over", "below threshold", "no counterpart", "unsupported"]
WRITTEN: tuple[Decision, ...] = ("transferred", "copied", "carried over")


def modules_written(summary: Mapping[str, Any]) -> int | None:
    """How many modules were written, by the summary of a report; None where it does not say, because it was edited."""
    decisions = summary.get("decisions")
    if not isinstance(decisions, dict):
        return None
    return sum(n for d, n in decisions.items() if d in WRITTEN and isinstance(n, int) and not isinstance(n, bool))


@dataclass(frozen=True)
class ModuleReport:
    """What became of one module of the adapter.

    Attributes:
        name: the module's name in the adapter.
        position: where it sits; None when no module goes by this name.
        decision: what was done; ``carried over`` is for tensors that no method changes (bias, norm, with ``copy`` also a
            full difference).
        reason: why, as a short sentence.
        similarity: of the weights' subspaces, where it was computed.
        rank_before, rank_after: of the low-rank update.
        norm_before, norm_after: Frobenius norms of the update read and of the one written. None before, where an update
            does not fit its module and was not formed: :class:`Totals` cannot count it then, and the verdict says so.
        energy_kept: share of the update's squared norm that was written, before ``strength``.
        change: ``||D_t - D|| / ||D||``: how far the result is from plain reuse, where the shapes agree.
        target: the name it is written under, where it goes to a module of another name.
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

    @property
    def written(self) -> bool:
        """Whether the output holds this module."""
        return self.decision in WRITTEN


@dataclass(frozen=True)
class Totals:
    """Sums over a set of modules.

    Attributes:
        modules, written: how many there are, and how many the output holds.
        energy_kept: share of their squared norms that was written; None where none has a norm.
        lowest, mean: of the smaller similarity; None where none was computed.
    """

    modules: int
    written: int
    energy_kept: float | None
    lowest: float | None
    mean: float | None


@dataclass(frozen=True)
class TransferReport:
    """The whole story of one transfer.

    Attributes:
        request: as :meth:`~lib_transfer.library.request.TransferRequest.to_json` gives it, parsed.
        method: title of the method.
        source_architecture, target_architecture: titles; None without a source.
        modules: in the order of the adapter.
        unread: tensors of the adapter that no module was made of.
        notes: further things a person should know, as sentences; they are part of the verdict.
    """

    request: dict[str, Any]
    method: str
    source_architecture: str | None
    target_architecture: str
    modules: tuple[ModuleReport, ...]
    unread: tuple[Unread, ...]
    notes: tuple[str, ...] = ()

    @property
    def totals(self) -> Totals:
        """Over all modules."""
        return totals(self.modules)

    def by_stage(self) -> dict[tuple[str, str], Totals]:
        """Totals per (part, stage), in the order of the forward pass."""
        groups: dict[tuple[str, str], list[ModuleReport]] = {}
        placed = [m for m in self.modules if m.position is not None]
        for module in sorted(placed, key=lambda m: _order(m.position)):
            assert module.position is not None
            groups.setdefault((module.position.part, module.position.stage), []).append(module)
        return {key: totals(modules) for key, modules in groups.items()}

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
        return " ".join(_verdict(self))

    def summary(self) -> dict[str, Any]:
        """The few facts that are written into the output's metadata."""
        t = self.totals
        return {
            "schema": SCHEMA,
            "modules": t.modules,
            "decisions": dict(sorted(Counter(m.decision for m in self.modules).items())),
            "energy_kept": _rounded(t.energy_kept),
            "lowest_similarity": _rounded(t.lowest),
            "mean_similarity": _rounded(t.mean),
            "change_from_reuse": _rounded(self.change),
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
        }

    def to_text(self) -> str:
        """For a terminal: verdict, totals per part and stage, reasons."""
        rows = [("part", "stage", "modules", "written", "similarity (lowest, mean)", "energy kept")]
        for (part, stage), t in [*self.by_stage().items(), (("all", ""), self.totals)]:
            similar = "" if t.lowest is None or t.mean is None else f"{t.lowest:.3f}  {t.mean:.3f}"
            rows.append((part, stage, str(t.modules), str(t.written), similar, percent(t.energy_kept)))
        lines = [*table(rows), "", *reasons(self.modules, self.unread), "", *_verdict(self)]
        return "\n".join(lines)


def totals(modules: Iterable[ModuleReport]) -> Totals:
    """Sums over ``modules``."""
    modules = list(modules)
    normed = [m for m in modules if m.norm_before is not None]
    before = math.fsum((m.norm_before or 0) ** 2 for m in normed)
    kept = math.fsum((m.energy_kept or 0) * (m.norm_before or 0) ** 2 for m in normed if m.written)
    smaller = [m.similarity.smaller for m in modules if m.similarity is not None and m.similarity.smaller is not None]
    return Totals(
        modules=len(modules),
        written=sum(m.written for m in modules),
        energy_kept=kept / before if before > 0 else None,
        lowest=min(smaller, default=None),
        mean=math.fsum(smaller) / len(smaller) if smaller else None,
    )


def similarity_dict(similarity: Similarity | None) -> dict[str, Any] | None:
    """A similarity for JSON."""
    return None if similarity is None else {k: _rounded(v) for k, v in asdict(similarity).items()}


def module_row(module: Module) -> dict[str, Any]:
    """Where a module sits, for JSON."""
    return {"module": module.name, **asdict(module.position), "shape": list(module.shape)}


def reasons(modules: Sequence[ModuleReport], unread: Sequence[Unread]) -> list[str]:
    """One line per decision and reason, with how many modules it concerns and an example."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in modules:
        found.setdefault((module.decision, module.reason), []).append(module.name)
    for item in unread:
        found.setdefault(("not read", item.reason), []).append(item.name)
    lines = []
    for (decision, reason), names in found.items():
        example = "" if decision in ("transferred", "copied") else f" (e.g. {names[0]})"
        lines.append(f"{len(names):5d}  {decision}: {reason}{example}")
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text, aligned: the first two columns to the left, the rest to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _verdict(report: TransferReport) -> list[str]:
    t = report.totals
    if t.written == 0:
        return ["Nothing of this adapter can be carried to the target."]
    kept = "" if t.energy_kept is None else f"; {percent(t.energy_kept)} of the update's energy is in the output"
    sentences = [f"{report.method}: {t.written} of {t.modules} modules were carried{kept}."]
    lost = [m for m in report.modules if not m.written]
    if lost:
        counts = Counter(m.decision for m in lost)
        sentences.append("Left out: " + ", ".join(f"{n} {decision}" for decision, n in counts.items()) + ".")
    unmeasured = sum(m.norm_before is None for m in lost)
    if unmeasured:
        sentences.append(f"How much {unmeasured} of these would have been is not known and not counted.")
    if report.unread:
        sentences.append(f"{len(report.unread)} groups of the adapter could not be read.")
    if t.energy_kept is not None and t.energy_kept < 0.5:
        sentences.append("More than half of the update was lost; plain reuse may well do better.")
    if report.change is not None:
        sentences.append(
            "What was carried is the same as plain reuse."
            if report.change < 1e-3
            else f"What was carried differs from plain reuse by {percent(report.change)} of its size."
        )
    sentences += report.notes
    sentences.append(
        "This is how much was carried, not whether the LoRA works on the target: "
        "compare pictures with the original LoRA at the same seed."
    )
    return sentences


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
        **{name: _rounded(getattr(module, name)) for name in ("norm_before", "norm_after", "energy_kept", "change")},
    }


def _rounded(value: float | None) -> float | None:
    """Six significant digits: more is noise of the machine, and would make equal reports differ."""
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def _order(position: Position | None) -> tuple[str, int]:
    return ("", 0) if position is None else (position.part, position.depth)
