"""What came out, as tables for docs/methods-and-evidence.md and as numbers to hold against the goals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lib_transfer.evaluation.movement import TRANSFERS
from tests.benchmarks.quality.judging import FITTED, RETRAINED, REUSE, Case

AUTO = "auto"
COLUMNS = (
    "lora-x",
    "prolora",
    "rotation",
    REUSE,
    "reuse x1.3",
    *FITTED,
    AUTO,
    RETRAINED,
)

HARMLESS, BETTER, STRANGER, USELESS = -2.0, 5.0, 40.0, 10.0
"""Goals: auto beside reuse, auto above reuse where modules are missing, auto on another architecture; what transfers not."""


def table(cases: Iterable[Case]) -> str:
    """A Markdown table: two lines for each pair and style, movement match and score."""
    lines = [f"| pair, style | {' | '.join(COLUMNS)} |", f"|---|{'--:|' * len(COLUMNS)}"]
    for case in cases:
        explained, score = explained_of(case), score_of(case)
        matches = " | ".join(_number(explained, name, ".2f") for name in COLUMNS)
        scores = " | ".join(_number(score, name, ".0f") for name in COLUMNS)
        lines += [f"| {case.pair}, {case.style}: explained | {matches} |", f"| score | {scores} |"]
    return "\n".join(lines)


def choices(cases: Iterable[Case]) -> str:
    """What ``auto`` did, and how much the LoRAs themselves gain, a line each."""
    return "\n".join(
        f"{case.pair}, {case.style}: {case.choice.reason} Distance {case.distance:.2f}. "
        f"Loss {case.losses[0]:.4f}, retrained {case.losses[1]:.4f}; "
        f"source {case.source_losses[0]:.4f}, with its LoRA {case.source_losses[1]:.4f}."
        for case in cases
    )


def correlations(cases: Sequence[Case]) -> str:
    """Rank correlation of movement match with score: over a pair's transferred adapters together, and within each style."""
    lines = ["| pair | adapters | together | mean within styles |", "|---|--:|--:|--:|"]
    for pair in dict.fromkeys(case.pair for case in cases):
        groups = [_points(case) for case in cases if case.pair == pair]
        together = [point for group in groups for point in group]
        within = [value for group in groups if (value := rank_correlation(group)) is not None]
        mean = sum(within) / len(within) if within else None
        both = " | ".join("" if value is None else f"{value:.2f}" for value in (rank_correlation(together), mean))
        lines.append(f"| {pair} | {len(together)} | {both} |")
    return "\n".join(lines)


def goals(cases: Sequence[Case]) -> str:
    """Where the goals of the automatic choice are missed, a line each."""
    missed = []
    for case in cases:
        score = score_of(case)
        auto, where = score[AUTO], f"{case.pair}, {case.style}"
        if REUSE in score and auto < score[REUSE] + HARMLESS:
            missed.append(f"{where}: auto {auto:.0f} is below reuse, {score[REUSE]:.0f}.")
        if case.pair == "pruned" and auto < score[REUSE] + BETTER:
            missed.append(f"{where}: auto {auto:.0f} is not {BETTER:.0f} above reuse, {score[REUSE]:.0f}.")
        if case.pair == "unrelated" and auto < STRANGER:
            missed.append(f"{where}: auto {auto:.0f} is below {STRANGER:.0f}.")
        missed += [
            f"{where}: {name} scores {score[name]:.0f}, and a movement match of {match:.2f} does not say so."
            for name, match in case.explained.items()
            if name != RETRAINED and score[name] < USELESS and match >= TRANSFERS
        ]
    return "\n".join(missed or ["All goals are met."])


def score_of(case: Case) -> dict[str, float]:
    """The score by column; to refuse is to change nothing."""
    chosen = case.choice.name
    return {**case.score, AUTO: 0.0 if chosen is None else case.score[chosen]}


def explained_of(case: Case) -> dict[str, float]:
    """Movement match by column; none where ``auto`` refuses."""
    name = case.choice.name
    chosen = {} if name is None else {AUTO: case.explained[name]}
    return {**case.explained, **chosen}


def rank_correlation(points: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's; None for fewer than three points, or where all are equal."""
    if len(points) < 3:
        return None
    x, y = (_ranks([point[side] for point in points]) for side in (0, 1))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    spread = (sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y)) ** 0.5
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / spread if spread else None


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each in order; equal ones share the middle of theirs."""
    return [sum(other < value for other in values) + 0.5 * sum(other == value for other in values) for value in values]


def _points(case: Case) -> list[tuple[float, float]]:
    return [(match, case.score[name]) for name, match in case.explained.items() if name != RETRAINED]


def _number(values: Mapping[str, float], name: str, form: str) -> str:
    if name not in values:
        return ""
    text = format(values[name], form)
    return text.removeprefix("-") if float(text) == 0 else text
