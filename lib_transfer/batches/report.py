"""The table of a batch: one row per file, for a page, a spreadsheet or a program."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from lib_transfer.batches.plan import BatchPlan
from lib_transfer.conversion.accounts import Loss, accounts_in, lines
from lib_transfer.conversion.decision import modules_written
from lib_transfer.conversion.outcome import Outcome, Status
from lib_transfer.formatting import for_spreadsheet
from lib_transfer.version import SCHEMA

COLUMNS = (
    "name",
    "base",
    "kind",
    "source",
    "status",
    "message",
    "hint",
    "modules",
    "written",
    "tensors",
    "tensors_carried",
    "lost",
    "energy_kept",
    "unmeasured",
    "lowest_similarity",
    "mean_similarity",
    "change_from_reuse",
    "seconds",
    "output",
    "notes",
)

_FACTS = ("energy_kept", "unmeasured", "lowest_similarity", "mean_similarity", "change_from_reuse")
"""What a row has from the summary of the report as it is."""

WAITING: Status = "to convert"


@dataclass
class BatchReport:
    """The plan of a batch and what has become of it so far.

    Attributes:
        plan: the plan.
        outcomes: what became of the adapters that were converted, by name.
    """

    plan: BatchPlan
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def settled(self, outcome: Outcome) -> None:
        """Take in one more outcome."""
        self.outcomes[outcome.name] = outcome

    @property
    def counts(self) -> dict[str, int]:
        """How many adapters there are of each status, in the order of :data:`Status`."""
        found = Counter(outcome.status for outcome in (self.plan.settled | self.outcomes).values())
        waiting = len(self.plan.items) - len(self.outcomes)
        return {status: n for status in get_args(Status) if (n := waiting if status == WAITING else found[status])}

    @property
    def words(self) -> str:
        """The same in words."""
        return ", ".join(f"{count} {status}" for status, count in self.counts.items()) or "nothing to do"

    @property
    def headline(self) -> str:
        """How many files there are, and what is to become of them."""
        count = self.plan.passed_over
        were, are = (" was", "is") if count == 1 else ("s were", "are")
        ours = f" {count} LoRA{were} made by Transfer LoRA and {are} not transferred again." if count else ""
        return f"{len(self.plan.facts)} LoRAs: {self.words}.{ours}"

    @property
    def failed(self) -> bool:
        """Whether some adapter could not be converted, and should have been."""
        return not self.counts.keys().isdisjoint(("failed", "nothing carried"))

    def outcome(self, name: str) -> Outcome | None:
        """What became of the adapter of this name; None as long as nothing has."""
        return self.outcomes.get(name) or self.plan.settled.get(name)

    def rows(self) -> list[dict[str, Any]]:
        """One row per file with the keys of :data:`COLUMNS`, in the order of the names."""
        sources = {item.name: item.source.name if item.source else "" for item in self.plan.items}
        return [self._row(name, sources.get(name, "")) for name in self.plan.facts]

    def _row(self, name: str, source: str) -> dict[str, Any]:
        about = self.plan.facts[name]
        outcome = self.outcome(name)
        facts: Mapping[str, Any] = outcome.facts if outcome is not None else {}
        accounts = accounts_in(facts)
        return {
            "name": name,
            "base": "" if about.problem else about.base,
            "kind": "" if about.problem else about.kind,
            "source": outcome.source if outcome is not None else source,
            "status": outcome.status if outcome is not None else WAITING,
            "message": outcome.message if outcome is not None else "",
            "hint": outcome.hint if outcome is not None else "",
            "modules": facts.get("modules"),
            "written": modules_written(facts),
            "tensors": accounts.tensors if accounts is not None else None,
            "tensors_carried": accounts.carried if accounts is not None else None,
            "lost": [asdict(loss) for loss in accounts.losses] if accounts is not None else [],
            **{key: facts.get(key) for key in _FACTS},
            "seconds": round(outcome.seconds, 2) if outcome is not None and outcome.seconds else None,
            "output": str(outcome.path) if outcome is not None and outcome.path is not None else "",
            "notes": [*outcome.remarks, *outcome.notes] if outcome is not None else [],
        }

    def to_json(self) -> str:
        """Everything, for a program."""
        settings = self.plan.settings
        document = {
            "schema": SCHEMA,
            "target": self.plan.target.name,
            "method": settings.method,
            "settings": dict(settings.values),
            "counts": self.counts,
            "adapters": self.rows(),
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """The rows for a spreadsheet."""
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(COLUMNS)
        for row in self.rows():
            table.writerow([for_spreadsheet(_cell(key, value)) for key, value in row.items()])
        return text.getvalue()


def _cell(key: str, value: Any) -> Any:
    """A value of a row in a spreadsheet, which has one text to a cell."""
    if key == "lost":
        return " | ".join(lines(Loss(**loss) for loss in value))
    return " ".join(value) if isinstance(value, list) else value


def is_csv(path: Path) -> bool:
    """Whether a report of this name is a table for a spreadsheet, not JSON."""
    return path.suffix.lower() == ".csv"
