"""What an evaluation found out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.evaluation.movement import Choice, Match
from lib_transfer.formats.metadata import MATCH
from lib_transfer.formats.writer import annotate
from lib_transfer.update import Updates

SCHEMA = 1
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
    """

    matches: Mapping[str, Match]
    updates: Mapping[str, Updates]
    distance: float
    choice: Choice
    notes: tuple[str, ...] = ()
    written: Path | None = None

    def facts(self) -> dict[str, Any]:
        """Everything in it but the adapters themselves, for JSON, where numbers that are not finite are None."""
        matches = {
            name: {"explained": _number(match.explained), "each": [*map(_number, match.each)], "verdict": match.verdict}
            for name, match in self.matches.items()
        }
        return {
            "schema": SCHEMA,
            "matches": matches,
            "distance": _number(self.distance),
            "best": self.choice.name,
            "reason": self.choice.reason,
            "notes": list(self.notes),
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
        return "\n".join([*lines, *self.notes, self.choice.reason])

    def note_in(self, path: Path) -> None:
        """Put the facts into the metadata of an output of ours.

        Raises:
            RequestError: the file was not made by Transfer LoRA.
            BadFileError, StorageError: it cannot be read or written.
        """
        annotate(path, {MATCH: json.dumps(self.facts(), sort_keys=True)})


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
