"""The HTML of the Transfer view: the choices before a job, and the results after it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from lib_transfer.conversion.decision import modules_written
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.report import ModuleReport, TransferReport
from lib_transfer.conversion.verdict import reasons
from lib_transfer.formatting import for_spreadsheet
from lib_transfer.webui.shell.html import kept, number, percent, render
from lib_transfer.webui.transfer.answer import Answer
from lib_transfer.webui.transfer.heat_map import heat_maps, legend
from lib_transfer.webui.transfer.outlook import Prospect

SHOWN = 20
"""How many chosen LoRAs are listed one by one."""

_FIGURES = ("Modules", "Energy kept", "Similarity, lowest", "mean", "Differs from reuse")
_MODULES = ("Module", "Decision", "Reason", "Similarity", "Energy kept", "Differs from reuse", "Rank")


@dataclass(frozen=True)
class Chosen:
    """What is known of a chosen LoRA before it is transferred.

    Attributes:
        name: its name.
        base, kind, source: its base model, its kind and its source checkpoint, in words.
        bad: whether it cannot be transferred as things are; ``source`` says why in a word or two then.
        preview: the address of its preview picture; "" for none.
    """

    name: str
    base: str
    kind: str
    source: str
    bad: bool = False
    preview: str = ""


@dataclass(frozen=True)
class Trouble:
    """The LoRAs that cannot be transferred as things are.

    Attributes:
        title: how many there are.
        lines: the name of each, and why.
        more: how many are not among the lines.
        advice: sentences that hold for all.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    more: int
    advice: tuple[str, ...]


def numbered(question: object, content: str) -> Markup:
    """What was asked for, with the number of the question, which the page compares with that of its last one."""
    return render("answer", question=question if isinstance(question, str) else "", content=content)


def chosen(rows: Sequence[Chosen], more: int, trouble: Trouble | None, notes: Sequence[str]) -> Markup | str:
    """The chosen LoRAs, how many more there are, those that cannot be transferred, and remarks."""
    return render("chosen", rows=rows, more=more, trouble=trouble, notes=notes) if rows else ""


def trouble(found: Sequence[Prospect], offer: str) -> Trouble:
    """The list of those of ``found`` that cannot be transferred; ``offer`` says what to do about missing sources."""
    bad = [(prospect.name, prospect.reason) for prospect in found if prospect.reason]
    title = f"{len(bad)} of the {len(found)} chosen LoRAs cannot be transferred as things are."
    if len(found) == 1:
        title = "This LoRA cannot be transferred as things are."
    others = "" if len(bad) == len(found) else "Transfer leaves them alone and goes on with the others."
    return Trouble(title, tuple(bad[:SHOWN]), len(bad) - SHOWN, tuple(filter(None, (others, offer))))


def nothing(found: Sequence[Prospect]) -> str:
    """Why a job on ``found``, none of which can be transferred, would do nothing."""
    there = [prospect for prospect in found if prospect.on_target]
    if len(there) < len(found):
        return "Nothing to transfer: what keeps each LoRA from it is said above."
    if len(found) > 1:
        return f"Nothing to transfer: all {len(found)} LoRAs were trained on the target itself. Use them as they are."
    return f"{found[0].decision.sentence} {found[0].decision.hint}"


def target(name: str, facts: str, problem: tuple[str, str] | None = None) -> Markup:
    """The target with what is known of it, and what is wrong with it."""
    return render("target", name=name, facts=facts, problem=problem)


def output_name(what: str, stem: str) -> Markup:
    """The name of an output, with what it stands for in front."""
    return render("name", what=what, stem=stem)


def overview(answered: Sequence[tuple[Outcome, Answer]], *, compares: bool = False) -> Markup:
    """The answer for every LoRA, with the tag to use and what can be done with it.

    Args:
        answered: the outcomes, each with its answer.
        compares: whether pictures can be made here.
    """
    if not answered:
        return render("empty")
    return render("overview", rows=[_row(outcome, answer, compares) for outcome, answer in answered])


def _row(outcome: Outcome, answer: Answer, compares: bool) -> dict[str, Any]:
    lost = outcome.accounts.told if outcome.accounts is not None else ()
    compared = outcome.name if compares and outcome.path is not None else ""
    return {"outcome": outcome, "answer": answer, "lost": lost, "compared": compared}


def details(outcome: Outcome | None, *, folded: bool = True) -> Markup | str:
    """Everything about one LoRA: figures, verdict, reasons, heat maps, modules; ``folded`` until a person opens it."""
    if outcome is None:
        return ""
    way = f"from {outcome.source} to {outcome.target}" if outcome.source else f"to {outcome.target}"
    report = _report(outcome.report, outcome.name) if outcome.report is not None else None
    figures = {"head": _FIGURES, "cells": _figures(outcome.facts)} if outcome.facts else None
    return render(
        "details", folded=folded, outcome=outcome, way=f"{way}, {outcome.seconds:.1f} s", figures=figures, report=report
    )


def _figures(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{modules_written(facts) or 0} of {facts['modules']}" if _is_count(facts.get("modules")) else "",
        kept(facts.get("energy_kept"), facts.get("unmeasured")),
        number(facts.get("lowest_similarity")),
        number(facts.get("mean_similarity")),
        percent(facts.get("change_from_reuse")),
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _report(report: TransferReport, name: str) -> dict[str, Any]:
    maps = [(f"Heat map of blocks and roles: {title}", picture) for title, picture in heat_maps(report)]
    return {
        "reasons": [*(" ".join(line.split()) for line in reasons(report)), report.accounts.sentence],
        "heat_maps": maps,
        "legend": legend() if maps else "",
        "head": _MODULES,
        "rows": [_cells(module) for module in report.modules],
        "stem": name.rpartition("/")[2],
        "csv": _csv(report.modules),
    }


def _cells(module: ModuleReport) -> tuple[str, ...]:
    rank = "" if module.rank_before is None else str(module.rank_before)
    if module.rank_after is not None and module.rank_after != module.rank_before:
        rank += f" to {module.rank_after}"
    similarity = module.similarity.smaller if module.similarity else None
    return (
        module.name,
        module.decision,
        module.reason,
        number(similarity),
        percent(module.energy_kept if module.written else 0.0),
        percent(module.change if module.written else None),
        rank,
    )


def _csv(modules: Iterable[ModuleReport]) -> str:
    """A ``data:`` address of the table of modules as CSV."""
    text = io.StringIO()
    table = csv.writer(text)
    columns = ("rank_before", "rank_after", "norm_before", "norm_after", "energy_kept", "change")
    table.writerow(
        ("module", "part", "block", "role", "decision", "reason", "similarity_left", "similarity_right", *columns)
    )
    for m in modules:
        place = (m.position.part, m.position.block, m.position.role) if m.position else ("", "", "")
        similar = (m.similarity.left, m.similarity.right) if m.similarity else ("", "")
        numbers = [getattr(m, column) for column in columns]
        table.writerow((for_spreadsheet(m.name), *place, m.decision, for_spreadsheet(m.reason), *similar, *numbers))
    return "data:text/csv;base64," + quote(base64.b64encode(text.getvalue().encode("utf-8", "replace")).decode())
