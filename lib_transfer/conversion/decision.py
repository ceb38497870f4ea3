"""What is done with a module, in the words of reports and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Decision = Literal["transferred", "copied", "carried over", "below threshold", "no counterpart", "unsupported"]
WRITTEN: tuple[Decision, ...] = ("transferred", "copied", "carried over")

NOT_READ = "not read"
"""What stands for a decision where a module could not be read."""


def modules_written(summary: Mapping[str, Any]) -> int | None:
    """How many modules were written, by the summary of a report; None where it does not say, because it was edited."""
    decisions = summary.get("decisions")
    if not isinstance(decisions, dict):
        return None
    return sum(n for d, n in decisions.items() if d in WRITTEN and isinstance(n, int) and not isinstance(n, bool))
