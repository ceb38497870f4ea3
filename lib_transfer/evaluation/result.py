"""What an evaluation found out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.evaluation.choice import Choice
from lib_transfer.evaluation.conditions import Conditions
from lib_transfer.evaluation.gain import Gain
from lib_transfer.evaluation.imitation import Imitation
from lib_transfer.evaluation.record import Record, noted, record_in
from lib_transfer.formats.metadata import MATCH
from lib_transfer.formats.writer import annotate, of_ours
from lib_transfer.update import Updates

SCHEMA = 3
"""The version of :meth:`Evaluation.facts`."""

UNJUDGED = "unjudged"
"""The verdict where the domain gap is so large that gains say nothing."""


@dataclass(frozen=True)
class Subject:
    """What was verified, told by contents alone.

    Attributes:
        adapter, source, target: the SHA-256 of the files, in hex.
        architectures: the ids of the architectures of the source and of the target.
    """

    adapter: str
    source: str
    target: str
    architectures: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found out.

    Attributes:
        gains: the gain of every adapter on held-out pictures, by name.
        updates: every adapter, that which was trained too, by name.
        gap: the domain gap of the checkpoints.
        choice: the adapter to keep, and why.
        notes: a sentence for everything that was left out.
        curve: the training, with the loss of every step and the gain on held-out pictures along it; None where there was none.
        written: the file that the chosen adapter was written to; None where none was written.
        conditions: what it holds for; None where models were compared that are no files.
        subject: what was verified; None where the contents of the files are not known.
    """

    gains: Mapping[str, Gain]
    updates: Mapping[str, Updates]
    gap: float
    choice: Choice
    notes: tuple[str, ...] = ()
    curve: Imitation | None = None
    written: Path | None = None
    conditions: Conditions | None = None
    subject: Subject | None = None

    @property
    def verdict(self) -> str:
        """The verdict on what was chosen, or else on the best."""
        if not self.choice.judged:
            return UNJUDGED
        name = self.choice.name or max(self.gains, key=lambda name: self.gains[name].share)
        return self.gains[name].verdict

    def facts(self) -> dict[str, Any]:
        """Everything in it but the adapters themselves, for JSON, where numbers that are not finite are None."""
        gains = {
            name: {
                "gain": _number(gain.share),
                "error": _number(gain.error),
                "damage": _number(gain.damage),
                "look": _number(gain.look),
                "lead": None if gain.lead is None else _number(gain.lead.value),
                "lead_error": None if gain.lead is None else _number(gain.lead.error),
                "verdict": gain.verdict if self.choice.judged else UNJUDGED,
            }
            for name, gain in self.gains.items()
        }
        trained = {} if self.curve is None else {"training": self.curve.facts()}
        held = {} if self.conditions is None else {"conditions": self.conditions.facts()}
        return {
            "schema": SCHEMA,
            "gains": gains,
            "gap": _number(self.gap),
            "best": self.choice.name,
            "verdict": self.verdict,
            "reason": self.choice.reason,
            "notes": list(self.notes),
            **trained,
            **held,
        }

    @property
    def advice(self) -> str:
        """What was left out, and what to use."""
        return " ".join((*self.notes, self.choice.reason))

    @property
    def text(self) -> str:
        """Everything for a person, an adapter a line."""
        width = max(map(len, self.gains))
        lines = [
            f"{name:<{width}}  {gain.text if self.choice.judged else gain.bare}" for name, gain in self.gains.items()
        ]
        held = [] if self.conditions is None else [self.conditions.text]
        return "\n".join([*lines, f"Domain gap: {self.gap:.2f}.", *held, *self.notes, self.choice.reason])

    def note_in(self, path: Path) -> None:
        """Put the facts into the metadata of an output of ours, beside those of earlier ones under other conditions.

        Raises:
            RequestError: the file was not made by Transfer LoRA.
            BadFileError, StorageError: it cannot be read or written.
        """
        annotate(path, {MATCH: noted(of_ours(path), self.facts())})


def record_of(found: Evaluation) -> Record:
    """The record of an evaluation, as its facts will be read again."""
    record = record_in(found.facts())
    assert record is not None
    return record


def _number(value: float | None) -> float | None:
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
