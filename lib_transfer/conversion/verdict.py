"""A report as sentences and tables that a person understands.

The numbers say how much of the update was carried and how alike the weights are. They do not say that the LoRA works on
the target, and no text here claims it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib_transfer.conversion.accounts import counted
from lib_transfer.conversion.decision import NOT_READ, WRITTEN
from lib_transfer.formatting import kept, percent

if TYPE_CHECKING:
    from lib_transfer.conversion.report import TransferReport

CHANGES_NOTHING = (
    "Every update in this LoRA is zero: it changes nothing, here or on the checkpoint that it was trained on."
)


def verdict(report: TransferReport) -> list[str]:
    """Sentences: how much was carried, how far from plain reuse it is, and what this does not say."""
    t = report.totals
    if t.written == 0:
        return ["Nothing of this adapter can be carried to the target."]
    sentences = [f"{report.method}: {t.written} of {t.modules} modules were carried{_energy(report)}."]
    lost = {decision: n for decision, n in report.decisions.items() if decision not in WRITTEN}
    if lost:
        sentences.append("Left out: " + ", ".join(f"{n} {decision}" for decision, n in lost.items()) + ".")
    others = [(loss.what, loss.count, loss.tensors) for loss in report.accounts.losses if loss.what != "module"]
    if others:
        sentences.append(f"{'Also not' if lost else 'Not'} carried: {counted(others)}.")
    if report.changes_nothing:
        sentences.append(CHANGES_NOTHING)
    if t.energy_kept is not None and t.energy_kept < 0.5:
        better = "; plain reuse may well do better" if report.source_architecture is not None else ""
        sentences.append(f"More than half of the update was lost{better}.")
    if report.change is not None:
        # Reuse itself differs where an update is written in a form that the WebUIs load, such as a LoRA of some rank.
        other = "plain reuse" if report.source_architecture is not None else "the LoRA's own update"
        sentences.append(
            f"What was carried is the same as {other}."
            if report.change < 1e-3
            else f"What was carried differs from {other} by {percent(report.change)} of its size."
        )
    sentences += report.notes
    sentences.append(
        "This is how much was carried, not whether the LoRA works on the target: "
        "compare pictures with the original LoRA at the same seed."
    )
    return sentences


def _energy(report: TransferReport) -> str:
    """How much of the update was carried, as far as it is known, as the end of a sentence."""
    t = report.totals
    if not t.unmeasured:
        return "" if t.energy_kept is None else f"; {percent(t.energy_kept)} of the update's energy is in the output"
    what = _unmeasured(report)
    if t.energy_kept is None:
        return f"; how much of the update was lost is not known: {what} of unknown size not carried"
    lost = percent(1 - t.energy_kept)
    return f"; at least {lost} of the update's energy is lost: the size of {what} more, not carried, is not known"


def _unmeasured(report: TransferReport) -> str:
    """What was not carried and has no known size, in words."""
    items = [("module", 1, 1) for m in report.modules if not m.written and m.norm_before is None]
    items += [(item.noun, 1, 1) for item in report.unread if item.unmeasured]
    return counted(items)


def text(report: TransferReport) -> str:
    """For a terminal: verdict, totals per part and stage, reasons."""
    rows = [("part", "stage", "modules", "written", "similarity (lowest, mean)", "energy kept")]
    for (part, stage), t in [*report.by_stage().items(), (("all", ""), report.totals)]:
        similar = "" if t.lowest is None or t.mean is None else f"{t.lowest:.3f}  {t.mean:.3f}"
        rows.append((part, stage, str(t.modules), str(t.written), similar, kept(t.energy_kept, t.unmeasured)))
    lines = [*table(rows), "", *reasons(report), "", report.accounts.sentence, *verdict(report)]
    return "\n".join(lines)


def reasons(report: TransferReport) -> list[str]:
    """One line per decision and reason, with how many modules it concerns and an example; then what else was lost."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in report.modules:
        found.setdefault((module.decision, module.reason), []).append(module.name)
    for item in report.unread:
        if item.noun == "module":
            found.setdefault((NOT_READ, item.reason), []).append(item.name)
    lines = []
    for (decision, reason), names in found.items():
        example = "" if decision in ("transferred", "copied") else f" (e.g. {names[0]})"
        lines.append(f"{len(names):5d}  {decision}: {reason}{example}")
    for loss in report.accounts.losses:
        if loss.what != "module":
            words = counted([(loss.what, loss.count, loss.tensors)]).partition(" ")[2]
            lines.append(f"{loss.count:5d}  {words} not carried: {loss.reason} (e.g. {loss.example})")
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text, aligned: the first two columns to the left, the rest to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
