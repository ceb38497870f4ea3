"""The answer that the result of a LoRA begins with: does it work on the target, as far as that is known?

A transfer alone tells how much was carried, and never that the LoRA works; what is said beyond that is measured by a
verification, or named as what to expect and how to find out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.report import NEARLY_ALL
from lib_transfer.evaluation.choice import IMITATION, REUSE
from lib_transfer.evaluation.gain import Gain
from lib_transfer.evaluation.record import Record
from lib_transfer.evaluation.thresholds import REPRODUCES, TRANSFERS
from lib_transfer.formatting import duration, percent
from lib_transfer.methods import AUTO

WORSE = 0.1
"""A gain below that of plain reuse by more than this is said to be worse: the errors of both are about half as large."""

HARDLY = 0.01
"""A difference from plain reuse, as a share of the update, below which the original does as well as it is."""

_DONE = {"analysed": "Can be transferred", "written": "Transferred", "already done": "Transferred already"}
_AS_IT_IS = {
    "analysed": "Can be written as it is",
    "written": "Written as it is",
    "already done": "Written already as it is",
}
_IN_PART = "Only a part of what the LoRA does on its own checkpoint comes through."
_THERE = "The transferred LoRA that is there already was measured."
_STRANGE = "The two checkpoints draw different pictures."
_NAME_WORDS = "Name its trigger words in the prompts, or compare pictures."
_ONLY_ANALYSED = "Nothing was written: Analyse only shows what a transfer comes to."


@dataclass(frozen=True)
class Known:
    """What is known of the output of a LoRA, beside the outcome.

    Attributes:
        name: its name; "" where there is none.
        method: the id of the method; "" where that is not known.
        strength: the factor on the whole update.
        verified: the last verification; None where there was none.
        converted: whether the LoRA stays on its base and only names and layout were changed.
    """

    name: str = ""
    method: str = ""
    strength: float = 1.0
    verified: Record | None = None
    converted: bool = False


@dataclass(frozen=True)
class Ways:
    """How to find out more in this program.

    Attributes:
        verify: whether it can run the models.
        pictures: whether it can make pictures.
        seconds: how long a verification takes; None where there is no honest estimate.
    """

    verify: bool = False
    pictures: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Answer:
    """The answer for one LoRA.

    Attributes:
        sentence: the answer.
        more: further sentences.
        use: the name of the LoRA to use in the prompt; "" where there is none to name.
    """

    sentence: str
    more: tuple[str, ...] = ()
    use: str = ""


def answer(outcome: Outcome, known: Known, ways: Ways) -> Answer:
    """The answer for the LoRA of ``outcome``.

    Args:
        outcome: what became of it.
        known: what is known of its output.
        ways: how to find out more.
    """
    if outcome.status in _NOTHING:
        return _nothing(outcome)
    analysed = outcome.status == "analysed"
    more = (_ONLY_ANALYSED,) if analysed else ()
    use = outcome.path.stem if outcome.path is not None else ""
    if outcome.facts.get("changes_nothing"):
        return Answer("This LoRA changes nothing: every update in it is zero, on its own checkpoint too.", more, use)
    if known.converted:
        return _converted(outcome, use)
    if known.verified is not None and known.verified.gains:
        there = (*more, _THERE) if analysed else ()
        if known.method == AUTO and set(known.verified.gains) <= {REUSE, IMITATION}:
            sentence, *further = _chosen(known.verified)
            return Answer(sentence, (*further, *there), known.name)
        return _measured(known.verified, known.name, there)
    sentence = _expected(outcome, known)
    return Answer(sentence, more or (_how_to_know(ways),), use)


# Where nothing was written.

_NOTHING = ("failed", "left out", "nothing carried", "to convert")


def _nothing(outcome: Outcome) -> Answer:
    reason = tuple(filter(None, (outcome.message, outcome.hint)))
    if outcome.why == "trained on the target":
        own = outcome.name.rpartition("/")[2]
        return Answer(f"It fits: it was trained on {outcome.target} itself, so use it as it is.", (), own)
    if outcome.why == "loads as it is":
        return Answer("It loads as it is: nothing was written.", (), outcome.name.rpartition("/")[2])
    if outcome.status == "nothing carried" and outcome.message:
        return Answer(f"It does not work on {outcome.target}, so nothing was written.", reason)
    if outcome.status == "nothing carried":
        return Answer(f"Nothing of this LoRA can be carried to {outcome.target}, so nothing was written.", reason)
    if outcome.status == "failed":
        return Answer("Not transferred: nothing was written.", reason)
    return Answer("Left out: nothing was written.", reason)


def _converted(outcome: Outcome, use: str) -> Answer:
    there = " It was there already." if outcome.status == "already done" else ""
    lost = _lost(outcome)
    if lost:
        return Answer(f"It loads now in part: {lost}.{there}", (), use)
    return Answer(f"It loads now: the same numbers under names that the programs for its base read.{there}", (), use)


# Where models were run.


def _measured(record: Record, own: str, there: tuple[str, ...]) -> Answer:
    """The answer of a verification of the LoRA ``own``; ``there`` is what else belongs to it."""
    gains = record.gains
    best = record.best
    mine = own if own in gains else next((name for name in gains if name != REUSE), REUSE)
    sentence, *more = _judged(record, mine, better=best == mine != REUSE)
    return Answer(sentence, (*more, *there), own)


def _chosen(record: Record) -> tuple[str, ...]:
    """What running the models came to where that was the method: the better of reuse and an imitation was written."""
    gains = record.gains
    name = record.best
    if name == IMITATION and record.judged:
        return _judged(record, IMITATION, better=REUSE in gains)
    if name == IMITATION:
        return "A LoRA was trained, and running the models cannot tell how good it is.", _STRANGE, "Compare pictures."
    kept = "Reuse was kept: the LoRA does on this checkpoint what it does as it is"
    if not record.judged:
        return f"{kept}. Running the models cannot tell how good that is.", _why_unjudged(record)
    tried = f", against {_number(gains[IMITATION])} of one that was trained" if IMITATION in gains else ""
    part = () if gains[REUSE].share >= REPRODUCES else (_IN_PART,)
    return f"{kept}: {_number(gains[REUSE])}{tried}, where 1 is the whole gain.", *part


def _why_unjudged(record: Record) -> str:
    return _NAME_WORDS if math.isinf(record.gap) else f"{_STRANGE} Compare pictures."


def _judged(record: Record, mine: str, *, better: bool) -> tuple[str, ...]:
    """What a verification says of the transferred LoRA ``mine``; ``better`` where it is clearly better than reuse."""
    gains, here = record.gains, record.gains[mine]
    compared = [here, *([gains[REUSE]] if REUSE in gains else [])]
    if not record.judged:
        if math.isinf(record.gap):
            return (
                "Running the models cannot tell: with these prompts the LoRA gains nothing on its own checkpoint.",
                _NAME_WORDS,
            )
        return "Running the models cannot tell: the two checkpoints draw different pictures.", "Compare pictures."
    if max(gain.share for gain in compared) < TRANSFERS:
        too = ", and neither does reuse" if len(compared) > 1 else ""
        return (f"It does not transfer{too}: {_against(here, gains)}, where 1 is the whole gain.",)
    part = () if here.share >= REPRODUCES else (_IN_PART,)
    if REUSE not in gains:
        return f"It transfers: {_number(here)}, where 1 is the whole gain; plain reuse is not possible.", *part
    return f"{_beside_reuse(here, gains[REUSE], better=better)}: {_against(here, gains)}.", *part


def _beside_reuse(here: Gain, reused: Gain, *, better: bool) -> str:
    """How a transferred LoRA does beside plain reuse, in words; ``better`` where it is clearly so."""
    if better:
        return "Better than reuse"
    if here.share < reused.share - WORSE:
        return "Worse than reuse, so use the original as it is"
    return "About as good as reuse"


def _against(here: Gain, gains: Mapping[str, Gain]) -> str:
    return f"{_number(here)} against {_number(gains[REUSE])}" if REUSE in gains else _number(here)


def _number(gain: Gain) -> str:
    return f"{gain.share:.2f}" if math.isfinite(gain.share) else "far below 0"


# Where nothing was measured.


def _expected(outcome: Outcome, known: Known) -> str:
    """What was carried, and what to expect of it."""
    facts, lost = outcome.facts, _lost(outcome)
    change = _as_number(facts.get("change_from_reuse"))
    at = "" if known.strength == 1 else f" at a weight of {known.strength:g}"
    if lost:
        better = "; plain reuse may do better" if change is not None and _more_than_half(facts) else ""
        return f"{_DONE[outcome.status]} in part: {lost}{better}."
    if known.method == "reuse":
        return f"{_AS_IT_IS[outcome.status]}: it does what plain reuse does{at}."
    if change is not None and change < HARDLY and not at:
        return f"Reuse it as it is: the transfer changes less than {percent(HARDLY)} of it."
    if change is None:
        return f"{_DONE[outcome.status]}. Whether it works cannot be known without running the models."
    how = "about" if known.method == "rotation" else "no more than"
    return f"{_DONE[outcome.status]}: expect {how} what plain reuse gives{at}."


def _lost(outcome: Outcome) -> str:
    """What was lost, in words; "" where nothing was."""
    facts, accounts = outcome.facts, outcome.accounts
    energy, unmeasured = _as_number(facts.get("energy_kept")), facts.get("unmeasured")
    if unmeasured and energy is None:
        return "how much of it was lost is not known"
    if energy is not None and (energy < NEARLY_ALL or unmeasured):
        return f"{'at least ' if unmeasured else ''}{percent(1 - energy)} of its update was lost"
    return f"{accounts.words} not carried" if accounts is not None and accounts.words else ""


def _more_than_half(facts: Mapping[str, Any]) -> bool:
    energy = _as_number(facts.get("energy_kept"))
    return energy is not None and energy < 0.5


def _how_to_know(ways: Ways) -> str:
    pictures = "compare pictures" if ways.pictures else "compare pictures in a WebUI, at the same seed"
    if not ways.verify:
        return f"The weights cannot tell whether it works: {pictures}."
    cost = "" if ways.seconds is None else f", about {duration(ways.seconds)}"
    return f"The weights cannot tell whether it works: run the models (Verify{cost}), or {pictures}."


def _as_number(value: object) -> float | None:
    """A number in a summary, which may have been edited; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
