"""The table of a batch as HTML, and as files to save. Our JavaScript sorts and filters it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from lib_transfer.batches.report import WAITING
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.webui.batch.job import BatchJob
from lib_transfer.webui.shell.html import kept, number, percent, render
from lib_transfer.webui.shell.status import GOOD
from lib_transfer.webui.transfer.answer import Answer
from lib_transfer.webui.transfer.html import details as details_of
from lib_transfer.webui.transfer.html import overview

_HEAD = (
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


def empty() -> Markup:
    """What is shown before there is a table."""
    return render("batch_empty")


def table(job: BatchJob) -> Markup:
    """One row per file, and how many files there are of each result."""
    report = job.report
    if report is None:
        return empty()
    rows = [_row(row, job) for row in report.rows()]
    chips = [("", f"all {len(rows)}"), *((status, f"{n} {status}") for status, n in report.counts.items())]
    return render("batch_table", parts_done=job.parts, chips=chips, head=_HEAD, rows=rows)


def details(job: BatchJob, name: str, answered: Sequence[tuple[Outcome, Answer]]) -> Markup:
    """Everything that is known of the file ``name`` of the batch; ``answered`` is empty while it waits."""
    [(outcome, _)] = answered or [(None, None)]
    return render(
        "batch_details",
        name=name,
        status=outcome.status if outcome is not None else WAITING,
        answer=overview(answered) if answered else "",
        details=details_of(outcome, folded=False),
        let_go=name in job.let_go,
    )


def saved(job: BatchJob | None, kind: str, shown: Callable[[str], str]) -> Markup | str:
    """A link to the table as a file, which our JavaScript follows; ``shown`` takes out of it what strangers may not see."""
    if job is None or job.report is None:
        return ""
    text, mime = (job.report.to_csv(), "text/csv") if kind == "csv" else (job.report.to_json(), "application/json")
    data = base64.b64encode(shown(text).encode("utf-8", "replace")).decode()
    # The time makes the link a new one even where the table has not changed.
    made = time.monotonic_ns()
    return render(
        "batch_saved", made=made, name=f"transfer-lora-batch.{kind}", href=f"data:{mime};base64,{quote(data)}"
    )


def _row(row: dict[str, Any], job: BatchJob) -> dict[str, Any]:
    status = str(row["status"])
    leaving = status == "to convert" and row["name"] in job.left
    about = job.report.plan.facts[row["name"]] if job.report is not None else None
    outcome = job.report.outcome(row["name"]) if job.report is not None else None
    remarks, accounts = (outcome.remarks, outcome.accounts) if outcome is not None else ((), None)
    seconds = row["seconds"]
    return {
        "name": row["name"],
        "status": status,
        "good": status in GOOD,
        "result": "will be left out" if leaving else ", ".join((status, *remarks)),
        "lost": accounts.told if accounts is not None else (),
        "can_skip": status == "to convert" and not leaving and job.active and job.kind == "batch",
        "message": f"{row['message']} {row['hint']}" if row["message"] else "",
        # Each cell with the value it is sorted by, where that is not its text.
        "cells": (
            (" or ".join(about.short_names) if about is not None else "", None),
            (row["kind"], None),
            (row["source"], None),
            ("" if row["modules"] is None else f"{row['written']} of {row['modules']}", row["written"]),
            (kept(row["energy_kept"], row["unmeasured"]), row["energy_kept"]),
            (number(row["lowest_similarity"]), row["lowest_similarity"]),
            (percent(row["change_from_reuse"]), row["change_from_reuse"]),
            ("" if seconds is None else f"{seconds:.1f} s", seconds),
        ),
    }
