"""The table of a batch as HTML, and as files to save. Sorting and filtering are our javascript's."""

from __future__ import annotations

import base64
import time
from html import escape
from typing import Any
from urllib.parse import quote

from lib_transfer.webui.batch.job import BatchJob
from lib_transfer.webui.transfer.html import number, percent, table

EMPTY = """<div class="transfer-lora-empty"><p>The table of the batch appears here.</p>
<p><b>Plan</b> tells what would be transferred, what would not and why, how long it takes and how much disk, and writes
nothing. <b>Run</b> plans and transfers; it can be stopped at any moment, and goes on where it stopped.</p></div>"""

_GOOD = {"to convert", "written", "already done"}
HEAD = (
    "LoRA",
    "Result",
    "Base",
    "Kind",
    "Source",
    "Modules",
    "Energy kept",
    "Similarity, lowest",
    "Differs from reuse",
    "Time",
)


def batch_table(job: BatchJob) -> str:
    """One row per file, and how many there are of each result."""
    report = job.report
    if report is None:
        return EMPTY
    rows = [_row(row, job) for row in report.rows()]
    chips = [_chip("", f"all {len(rows)}"), *(_chip(s, f"{n} {s}") for s, n in report.counts.items())]
    return (
        f'<div class="transfer-lora-chips" data-parts="{job.parts}">{"".join(chips)}</div>'
        f"{table(HEAD, ''.join(rows), 'transfer_lora_batch_table')}"
    )


def saved(job: BatchJob | None, kind: str) -> str:
    """A link to the table as a file; our javascript follows it."""
    if job is None or job.report is None:
        return ""
    text, mime = (job.report.to_csv(), "text/csv") if kind == "csv" else (job.report.to_json(), "application/json")
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    name = f"transfer-lora-batch.{kind}"
    # The time makes it a new link, also where the table is as it was.
    made = f'data-made="{time.monotonic_ns()}"'
    return f'<p><a {made} download="{name}" href="data:{mime};base64,{quote(data)}">{name}</a></p>'


def _chip(status: str, words: str) -> str:
    return (
        f'<button type="button" class="transfer-lora-chip" data-transfer-lora="only" data-status="{escape(status)}">'
        f"{escape(words)}</button>"
    )


def _row(row: dict[str, Any], job: BatchJob) -> str:
    status = str(row["status"])
    mark = "good" if status in _GOOD else "bad"
    leaving = status == "to convert" and row["name"] in job.left
    said = "will be left out" if leaving else status
    result = f'<span class="transfer-lora-{mark}">{escape(said)}</span>'
    if status == "to convert" and not leaving and job.active and job.kind == "batch":
        name = escape(str(row["name"]))
        result += f' <button type="button" class="transfer-lora-small" data-transfer-lora="skip" data-name="{name}">Skip</button>'
    if row["message"]:
        result += f"<br>{escape(str(row['message']))} {escape(str(row['hint']))}"
    modules = "" if row["modules"] is None else f"{row['written']} of {row['modules']}"
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f} s"
    about = job.report.plan.facts[row["name"]] if job.report is not None else None
    cells = (
        (" or ".join(about.short_names) if about is not None else "", None),
        (row["kind"], None),
        (row["source"], None),
        (modules, row["written"]),
        (percent(row["energy_kept"]), row["energy_kept"]),
        (number(row["lowest_similarity"]), row["lowest_similarity"]),
        (percent(row["change_from_reuse"]), row["change_from_reuse"]),
        (seconds, row["seconds"]),
    )
    rest = "".join(_cell(text, value) for text, value in cells)
    return f'<tr data-status="{escape(status)}"><th>{escape(str(row["name"]))}</th><td>{result}</td>{rest}</tr>'


def _cell(text: object, value: object) -> str:
    """A cell; ``value`` is what it is sorted by, where that is not its text."""
    by = f' data-value="{escape(str(value))}"' if value is not None else ""
    return f"<td{by}>{escape(str(text))}</td>"
