"""What came out, as tables for docs/methods-and-evidence.md, and as numbers to hold against the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from lib_transfer.evaluation.choice import IMITATION, REUSE
from lib_transfer.evaluation.runs import BUDGET
from lib_transfer.evaluation.thresholds import FAR
from tests.benchmarks.quality.adapters import INSERTED, PROLORA, ROTATION
from tests.benchmarks.quality.imitating import CURVE
from tests.benchmarks.quality.judging import BEST, ONE_DOMAIN, ORDINARY, RETRAINED, Case, with_runs

AUTO = "auto"
COLUMNS = (PROLORA, ROTATION, REUSE, BEST, ORDINARY, IMITATION, AUTO)

HARMLESS, GOOD, WORST = -2.0, 90.0, 75.0
"""Goals: auto beside reuse; its mean and its worst where both bases draw the same pictures."""

MOST_OF_NOTHING, LEAST_OF_ALL = 30.0, 70.0
"""Scores that something may have at most of which it is said that it does not transfer, and at least that it reproduces."""


def scores(cases: Sequence[Case]) -> str:
    """A row for each pair: the gap, and the score of every adapter, mean and range over styles and seeds."""
    rows = []
    for pair in _pairs(cases):
        of_pair = [case for case in cases if case.pair == pair]
        cells = [_spread([value for case in of_pair if (value := score(case, name)) is not None]) for name in COLUMNS]
        rows.append([pair, _spread([case.gap for case in of_pair], ".2f"), *cells])
    return _table(["target", "gap", *COLUMNS], rows)


def sides(cases: Sequence[Case]) -> str:
    """The same of what the score does not show: the style in samples, and the damage, in percent of the retrained LoRA's."""
    rows = []
    for pair in _pairs(cases):
        here = [case for case in cases if case.pair == pair]
        of_pair = [case.measured for case in here]
        cells = [_spread([case.delta for case in here if case.delta is not None])]
        for name in (REUSE, ORDINARY, IMITATION, RETRAINED):
            known = [measured[name] for measured in of_pair if name in measured]
            cells += [_spread([it.sampled for it in known]), _spread([it.damage for it in known])]
        rows.append([pair, *cells])
    names = [f"{name}: {what}" for name in (REUSE, ORDINARY, IMITATION, RETRAINED) for what in ("samples", "damage")]
    return _table(["target", "Delta Sampling: samples", *names], rows)


def graded(cases: Sequence[Case]) -> str:
    """A row for each case where reuse is possible, by its gap: how far imitation is ahead, as it seems and by the truth."""
    rows = []
    for case in sorted((case for case in cases if REUSE in case.measured), key=lambda case: case.gap):
        of_reuse, of_it = case.gains[REUSE], case.gains[IMITATION]
        assert of_it.lead is not None and of_it.look is not None and of_reuse.look is not None
        scored = [case.measured[name].score for name in (REUSE, IMITATION)]
        cells = [f"{case.gap:.3f}", *(f"{value:.0f}" for value in scored), f"{scored[1] - scored[0]:+.0f}"]
        cells += [f"{of_it.share - of_reuse.share:+.3f}", f"{of_it.look - of_reuse.look:+.3f}"]
        cells += [f"{of_it.lead.value:+.3f} ± {of_it.lead.error:.3f}", case.chosen or "nothing"]
        rows.append([f"{case.pair}, {case.style}, seed {case.seed}", *cells])
    return _table(["case", "gap", "reuse", "imitation", "difference", "in gain", "in look", "lead", "kept"], rows)


def inserted(cases: Sequence[Case]) -> str:
    """What inserted blocks get, and what that is worth."""
    names = [REUSE if way == "empty" else f"{REUSE}, {way}" for way in INSERTED]
    rows = [
        [f"{case.style}, seed {case.seed}", *(f"{case.measured[name].score:.1f}" for name in names)]
        for case in cases
        if names[-1] in case.measured
    ]
    return _table(["style", *INSERTED], rows)


def curve(cases: Sequence[Case]) -> str:
    """Score against runs, for imitation and for ordinary training."""
    rows = []
    for kind in (IMITATION, ORDINARY):
        for pair in _pairs(cases):
            known = [case.measured for case in cases if case.pair == pair]
            found = [
                [it[name].score for it in known if name in it] for name in (with_runs(kind, share) for share in CURVE)
            ]
            if all(found):
                rows.append([f"{pair}, {kind}", *map(_spread, found)])
    return _table(["target", *(f"{round(share * BUDGET)} runs" for share in CURVE)], rows)


def verdicts(cases: Sequence[Case]) -> str:
    """How many adapters got each verdict where the gap lets one be given, and what they score."""
    found: dict[str, list[float]] = {}
    for verdict, value in _judged(cases):
        found.setdefault(verdict, []).append(value)
    rows = [
        [verdict, str(len(values)), f"{min(values):.0f}", f"{max(values):.0f}"] for verdict, values in found.items()
    ]
    return _table(["verdict", "adapters", "lowest score", "highest"], rows)


def goals(cases: Sequence[Case]) -> str:
    """Where the goals are missed, a line each."""
    missed = []
    for case in cases:
        where = f"{case.pair}, {case.style}, seed {case.seed}"
        if REUSE in case.measured and case.auto < case.measured[REUSE].score + HARMLESS:
            missed.append(f"{where}: auto {case.auto:.0f} is below reuse, {case.measured[REUSE].score:.0f}.")
        if case.pair in ONE_DOMAIN and case.auto < WORST:
            missed.append(f"{where}: auto {case.auto:.0f} is below {WORST:.0f}.")
    same = [case for case in cases if case.pair in ONE_DOMAIN]
    if same and (mean := fmean(case.auto for case in same)) < GOOD:
        missed.append(f"Where both draw the same pictures auto has {mean:.0f} in the mean, below {GOOD:.0f}.")
    if same:
        ours, usual = (fmean(case.measured[name].score for case in same) for name in (IMITATION, ORDINARY))
        if ours <= usual:
            missed.append(f"There imitation has {ours:.1f} in the mean, and ordinary training {usual:.1f}.")
    for verdict, value in _judged(cases):
        if verdict == "reproduces" and value < LEAST_OF_ALL:
            missed.append(f"What scores {value:.0f} is said to be reproduced.")
        if verdict == "does not transfer" and value > MOST_OF_NOTHING:
            missed.append(f"What scores {value:.0f} is said not to transfer.")
    return "\n".join(missed or ["All goals are met."])


def score(case: Case, name: str) -> float | None:
    """The score by column; None where there is none."""
    if name == AUTO:
        return case.auto
    return case.measured[name].score if name in case.measured else None


def _judged(cases: Iterable[Case]) -> list[tuple[str, float]]:
    """Verdict and score of every transferred adapter, where the gap is not too large for a verdict."""
    return [
        (gain.verdict, case.measured[name].score)
        for case in cases
        if case.gap <= FAR
        for name, gain in case.gains.items()
        if name != RETRAINED
    ]


def _pairs(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(case.pair for case in cases))


def _spread(values: Sequence[float], form: str = ".0f") -> str:
    """The mean, and the smallest and largest where there are several."""
    if not values:
        return ""
    mean, low, high = (_number(value, form) for value in (fmean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def _number(value: float, form: str) -> str:
    text = format(value, form)
    return text.removeprefix("-") if float(text) == 0 else text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return "\n".join([line(head), f"|---|{'--:|' * (len(head) - 1)}", *map(line, rows)])
