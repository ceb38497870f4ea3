"""What an evaluation found out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.evaluation.conditions import Conditions
from lib_transfer.evaluation.movement import Choice, Match
from lib_transfer.evaluation.record import noted
from lib_transfer.formats.metadata import MATCH
from lib_transfer.formats.writer import annotate, of_ours
from lib_transfer.update import Updates

SCHEMA = 2
"""The version of :meth:`Evaluation.facts`."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found out.

    Attributes:
        matches: the movement match of every adapter on held-out inputs, by name.
        updates: every adapter, the improved ones too, by name.
        distance: how far the bases are from each other, in squares of the source's movement; see
            :func:`lib_transfer.evaluation.movement.distance_of`.
        choice: the adapter to keep, and why.
        notes: a sentence for everything that was left out.
        written: the file that the chosen adapter was written to; None where none was written.
        conditions: what it holds for; None where models were compared that are no files.
    """

    matches: Mapping[str, Match]
    updates: Mapping[str, Updates]
    distance: float
    choice: Choice
    notes: tuple[str, ...] = ()
    written: Path | None = None
    conditions: Conditions | None = None

    def facts(self) -> dict[str, Any]:
        """Everything in it but the adapters themselves, for JSON, where numbers that are not finite are None."""
        matches = {
            name: {"explained": _number(match.explained), "each": [*map(_number, match.each)], "verdict": match.verdict}
            for name, match in self.matches.items()
        }
        held = {} if self.conditions is None else {"conditions": self.conditions.facts()}
        return {
            "schema": SCHEMA,
            "matches": matches,
            "distance": _number(self.distance),
            "best": self.choice.name,
            "reason": self.choice.reason,
            "notes": list(self.notes),
            **held,
        }

    @property
    def advice(self) -> str:
        """What was left out, and what to use."""
        return " ".join((*self.notes, self.choice.reason))

    @property
    def text(self) -> str:
        """Everything for a person, an adapter a line."""
        width = max(map(len, self.matches))
        lines = [f"{name:<{width}}  {match.text}" for name, match in self.matches.items()]
        held = [] if self.conditions is None else [self.conditions.text]
        return "\n".join([*lines, *held, *self.notes, self.choice.reason])

    def note_in(self, path: Path) -> None:
        """Put the facts into the metadata of an output of ours, beside those of earlier ones under other conditions.

        Raises:
            RequestError: the file was not made by Transfer LoRA.
            BadFileError, StorageError: it cannot be read or written.
        """
        written = {} if self.written is None else {"written": self.written.stem}
        annotate(path, {MATCH: noted(of_ours(path), {**self.facts(), **written})})


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
