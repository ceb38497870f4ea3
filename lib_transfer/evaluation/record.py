"""The verifications of an output that its metadata keep: the last one, and with it those under other conditions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_transfer.evaluation.conditions import Conditions, conditions_in
from lib_transfer.evaluation.gain import Gain
from lib_transfer.evaluation.thresholds import FAR
from lib_transfer.formats.metadata import MATCH

EARLIER = "earlier"
"""The entry of the last verification's facts that holds those of the earlier ones, newest first."""

KEPT = 8
"""How many verifications an output keeps."""


OUTDATED = "It was verified by an older version, by another measure. Verify it again."


@dataclass(frozen=True)
class Curves:
    """How a training went.

    Attributes:
        losses: the loss of every step.
        gains: the gain on held-out pictures, each with the number of steps after which it was reached.
    """

    losses: tuple[float, ...]
    gains: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Record:
    """One verification, as it was noted.

    Attributes:
        gains: the gain of every adapter by name; empty where an older version noted another measure.
        advice: what was left out, and what to use.
        conditions: what it holds for; None where an older version did not note it.
        gap: the domain gap of the checkpoints (:mod:`lib_transfer.evaluation.gap`).
        training: the training of an imitation (:meth:`.Imitation.facts`); None for none.
        best: the name of the adapter to keep; None where none of them transfers.
    """

    gains: Mapping[str, Gain]
    advice: str
    conditions: Conditions | None = None
    gap: float = 0.0
    training: Curves | None = None
    best: str | None = None

    @property
    def judged(self) -> bool:
        """Whether gains tell how good an adapter is; they do not where the domain gap is large."""
        return self.gap <= FAR


def noted(metadata: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    """The text for the metadata of an output: ``facts``, with those of its earlier verifications under other conditions.

    Args:
        metadata: what the output says of itself now.
        facts: what the new verification found out (:meth:`.Evaluation.facts`).
    """
    others = [each for each in _noted_in(metadata) if each.get("conditions") != facts.get("conditions")]
    earlier = {EARLIER: others[: KEPT - 1]} if others else {}
    # Not sorted: the adapters are shown in this order.
    return json.dumps({**facts, **earlier})


def records_in(metadata: Mapping[str, str]) -> tuple[Record, ...]:
    """The verifications that the metadata of an output tell of, newest first; anyone may have written them."""
    found = (record_in(facts) for facts in _noted_in(metadata)[:KEPT])
    return tuple(record for record in found if record is not None)


def _noted_in(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    try:
        last = json.loads(metadata.get(MATCH, ""))
    except (ValueError, RecursionError):
        return []
    if not isinstance(last, dict):
        return []
    earlier = last.pop(EARLIER, [])
    listed = earlier if isinstance(earlier, list) else []
    return [last, *(each for each in listed if isinstance(each, dict))]


def record_in(facts: Mapping[str, Any]) -> Record | None:
    """The record that :meth:`.Evaluation.facts` tell of; None for anything else, for anyone may have written them."""
    conditions = conditions_in(facts.get("conditions"))
    if "matches" in facts and "gains" not in facts:
        return Record({}, OUTDATED, conditions)
    given, notes = facts.get("gains"), facts.get("notes")
    gains = {name: _gain(each) for name, each in given.items()} if isinstance(given, dict) else {}
    sound = {name: gain for name, gain in gains.items() if gain is not None}
    if not sound or len(sound) != len(gains):
        return None
    said = [*(notes if isinstance(notes, list) else []), facts.get("reason")]
    return Record(
        sound,
        " ".join(each for each in said if isinstance(each, str)),
        conditions,
        math.inf if facts.get("gap") is None else _or_nan(facts["gap"]),
        _curves(facts.get("training")),
        next((name for name in sound if name == facts.get("best")), None),
    )


def _gain(facts: object) -> Gain | None:
    if not isinstance(facts, dict):
        return None
    share = -math.inf if facts.get("gain", "") is None else _or_nan(facts.get("gain"))
    error, damage = _or_nan(facts.get("error")), facts.get("damage")
    if math.isnan(share) or math.isnan(error):
        return None
    return Gain(share, error, None if damage is None or math.isnan(_or_nan(damage)) else float(damage))


def _curves(facts: object) -> Curves | None:
    """The curves of a training; None where they are not what :meth:`.Imitation.facts` gives."""
    if not isinstance(facts, dict):
        return None
    losses, held = facts.get("losses"), facts.get("held_out")
    if not isinstance(losses, list) or not isinstance(held, list):
        return None
    points = [point for point in held if isinstance(point, list) and len(point) == 2]
    numbers = [_or_nan(number) for number in (*losses, *(number for point in points for number in point))]
    if len(points) != len(held) or any(map(math.isnan, numbers)):
        return None
    return Curves(tuple(map(float, losses)), tuple((int(step), float(gain)) for step, gain in points))


def _or_nan(value: object) -> float:
    """A number; NaN for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
