"""The results as HTML. Every text that comes from a file is escaped here; nothing else makes HTML of results."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.webui.transfer.heat_map import heat_maps

if TYPE_CHECKING:
    from lib_transfer.conversion.report import ModuleReport, TransferReport

EMPTY = """<div class="transfer-lora-empty"><p>Results appear here.</p>
<p><b>Analyse</b> shows what would come through and writes nothing. <b>Transfer</b> writes a new LoRA beside the
original, which is left as it is.</p></div>"""

_WORDS = {
    "analysed": "analysed, nothing written",
    "written": "written",
    "already done": "was there already",
    "nothing carried": "nothing to write",
    "left out": "skipped",
    "failed": "not transferred",
}
_GOOD = {"analysed", "written", "already done"}


def error(message: str, hint: str = "") -> str:
    """An error as a sentence, with what to do."""
    more = f"<p>{escape(hint)}</p>" if hint else ""
    return f'<div class="transfer-lora-error" role="alert"><p><b>{escape(message)}</b></p>{more}</div>'


def note(text: str) -> str:
    """Something to know."""
    return f'<p class="transfer-lora-note">{escape(text)}</p>'


def overview(outcomes: Sequence[Outcome]) -> str:
    """One row per LoRA, then the tags of the new ones."""
    if not outcomes:
        return EMPTY
    head = ("LoRA", "Result", "Modules", "Energy kept", "Similarity, lowest", "mean", "Differs from reuse")
    rows = "".join(_row(outcome) for outcome in outcomes)
    made = "".join(use(outcome.tag) for outcome in outcomes if outcome.tag)
    heading = f"<h4>Use in the prompt</h4>{made}" if made else ""
    return f'<div class="transfer-lora-results">{table(head, rows, "transfer_lora_overview")}{heading}</div>'


def details(outcome: Outcome | None) -> str:
    """Everything about one LoRA: verdict, notes, reasons, heat map, modules."""
    if outcome is None:
        return ""
    parts = [f"<h4>{escape(outcome.name)}</h4>"]
    if outcome.message:
        parts.append(error(outcome.message, outcome.hint))
    if outcome.verdict:
        parts.append(f'<p class="transfer-lora-verdict">{escape(outcome.verdict)}</p>')
    way = f"from {outcome.source} to {outcome.target}" if outcome.source else f"to {outcome.target}"
    parts.append(f'<p class="transfer-lora-note">{escape(way)}, {outcome.seconds:.1f} s</p>')
    parts += [note(text) for text in outcome.notes]
    if outcome.report is not None:
        parts += _of_report(outcome.report, outcome.name)
    elif outcome.status == "already done":
        parts.append(note("Press Analyse for the heat map and the table of modules."))
    return f'<div class="transfer-lora-details">{"".join(parts)}</div>'


def _row(outcome: Outcome) -> str:
    facts = outcome.facts
    decisions = facts.get("decisions") if isinstance(facts.get("decisions"), dict) else {}
    written = sum(n for d, n in decisions.items() if d in ("transferred", "copied", "carried over") and _is_count(n))
    modules = f"{written} of {facts['modules']}" if _is_count(facts.get("modules")) else ""
    mark = "good" if outcome.status in _GOOD else "bad"
    cells = (
        modules,
        percent(facts.get("energy_kept")),
        number(facts.get("lowest_similarity")),
        number(facts.get("mean_similarity")),
        percent(facts.get("change_from_reuse")),
    )
    result = f'<span class="transfer-lora-{mark}">{escape(_WORDS[outcome.status])}</span>'
    if outcome.message:
        result += f"<br>{escape(outcome.message)}"
    numbers = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr data-status="{escape(outcome.status)}"><th>{escape(outcome.name)}</th><td>{result}</td>{numbers}</tr>'


def use(text: str) -> str:
    """The tag of a new LoRA, with what can be done with it."""
    tag = escape(text)
    buttons = "".join(
        f'<button type="button" class="transfer-lora-small" data-transfer-lora="{action}" data-tag="{tag}">{label}</button>'
        for action, label in (("copy", "Copy"), ("txt2img", "Send to txt2img"), ("img2img", "Send to img2img"))
    )
    return f'<div class="transfer-lora-tag"><code>{tag}</code><span>{buttons}</span></div>'


def _of_report(report: TransferReport, name: str) -> list[str]:
    from lib_transfer.conversion.report import reasons  # noqa: PLC0415 - torch is imported when it is used

    lines = "".join(f"<li>{escape(' '.join(line.split()))}</li>" for line in reasons(report.modules, report.unread))
    parts = [f'<ul class="transfer-lora-reasons">{lines}</ul>']
    for title, picture in heat_maps(report):
        about = f"Heat map of blocks and roles: {escape(title)}"
        parts.append(f'<figure class="transfer-lora-heat"><img src="{picture}" alt="{about}" title="{about}"></figure>')
    head = ("Module", "Decision", "Reason", "Similarity", "Energy kept", "Differs from reuse", "Rank")
    rows = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in _cells(m))}</tr>" for m in report.modules)
    modules = table(head, rows, "transfer_lora_modules")
    link = f'<a download="{escape(name.rpartition("/")[2])}.csv" href="{_csv(report.modules)}">Download as CSV</a>'
    parts.append(f"<details><summary>All {len(report.modules)} modules</summary><p>{link}</p>{modules}</details>")
    return parts


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
        table.writerow((_plain(m.name), *place, m.decision, _plain(m.reason), *similar, *numbers))
    return "data:text/csv;base64," + quote(base64.b64encode(text.getvalue().encode("utf-8", "replace")).decode())


def _plain(text: str) -> str:
    """A text that no spreadsheet takes for a formula: names come from files."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def table(head: Sequence[str], rows: str, elem_id: str) -> str:
    """A table that scrolls within itself; ``rows`` is HTML."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return (
        f'<div class="transfer-lora-scroll"><table id="{elem_id}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: object) -> str:
    """A number between 0 and 1; "" for what is none."""
    return f"{value:.3f}" if isinstance(value, (int, float)) else ""


def percent(value: object) -> str:
    """A share; "" for what is none."""
    from lib_transfer.conversion import report  # noqa: PLC0415 - torch is imported when it is used

    return report.percent(float(value)) if isinstance(value, (int, float)) else ""
