"""The verifications of an output that its metadata keep: the last one, and with it those under other conditions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_transfer.evaluation.conditions import Conditions, conditions_in
from lib_transfer.evaluation.movement import Match
from lib_transfer.formats.metadata import MATCH

EARLIER = "earlier"
"""The entry of the last verification's facts that holds those of the earlier ones, newest first."""

KEPT = 8
"""How many verifications an output keeps."""


@dataclass(frozen=True)
class Record:
    """One verification, as it was noted.

    Attributes:
        matches: the match of every adapter by name.
        advice: what was left out, and what to use.
        conditions: what it holds for; None where an older version did not note it.
        written: the name of a better LoRA that was written; None for none.
        distance: how far the bases are from each other (:func:`~lib_transfer.evaluation.movement.distance_of`).
    """

    matches: Mapping[str, Match]
    advice: str
    conditions: Conditions | None = None
    written: str | None = None
    distance: float = 0.0


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
    found = (_record(facts) for facts in _noted_in(metadata)[:KEPT])
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


def _record(facts: Mapping[str, Any]) -> Record | None:
    given, notes, written = facts.get("matches"), facts.get("notes"), facts.get("written")
    matches = {name: _match(each) for name, each in given.items()} if isinstance(given, dict) else {}
    sound = {name: match for name, match in matches.items() if match is not None}
    if not sound or len(sound) != len(matches):
        return None
    said = [*(notes if isinstance(notes, list) else []), facts.get("reason")]
    return Record(
        sound,
        " ".join(each for each in said if isinstance(each, str)),
        conditions_in(facts.get("conditions")),
        written if isinstance(written, str) else None,
        _distance(facts.get("distance", 0.0)),
    )


def _match(facts: object) -> Match | None:
    if not isinstance(facts, dict) or not isinstance(facts.get("each"), list) or not facts["each"]:
        return None
    numbers = [_number(value) for value in (facts.get("explained"), *facts["each"])]
    return None if any(math.isnan(number) for number in numbers) else Match(numbers[0], tuple(numbers[1:]))


def _distance(value: object) -> float:
    """A distance as it was before it became JSON, where None stands for infinity; 0 for what is none."""
    if value is None:
        return math.inf
    return float(value) if isinstance(value, int | float) else 0.0


def _number(value: object) -> float:
    """A number as it was before it became JSON, which has no infinity: a match has only the one below."""
    if value is None:
        return -math.inf
    return float(value) if isinstance(value, int | float) else math.nan
