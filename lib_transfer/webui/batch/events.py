"""What happens at each event of the Batch view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lib_transfer.architecture import architectures
from lib_transfer.formats.algorithms import ALGORITHMS
from lib_transfer.library.outputs import Outputs
from lib_transfer.library.own_base import staying
from lib_transfer.webui.batch import html
from lib_transfer.webui.batch.form import ANY_ALGORITHM, ANY_BASE, CHOSEN, EVERYWHERE, batch_order, folders
from lib_transfer.webui.batch.job import BatchJob
from lib_transfer.webui.batch.work import BatchWork
from lib_transfer.webui.host import files
from lib_transfer.webui.shell.events import Start, TabEvents, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.form import output_folder
from lib_transfer.webui.transfer.known import answers
from lib_transfer.webui.transfer.work import EXISTING, settings_for


class BatchEvents(ViewEvents):
    """The events of the view."""

    def __init__(self, tab: TabEvents) -> None:
        super().__init__(tab, "batch_")
        self._outputs = Outputs(tab.index)

    def job(self, values: FormValues) -> BatchJob | None:
        """The window's batch."""
        job: Job | None = super().job(values)
        return job if isinstance(job, BatchJob) else None

    def opened(self, values: FormValues) -> dict[str, Any]:
        """The lists, when the view is first looked at or refreshed. What is chosen stays if it is still there."""
        names = files.adapters(self.host.adapter_folders())
        self.tab.index.scan(names.values(), [c.path for c in self.host.checkpoints().values()])
        lists = {
            "batch_folder": [EVERYWHERE, CHOSEN, *folders(names)],
            "batch_base": [ANY_BASE, *(a.title for a in architectures())],
            "batch_algorithm": [ANY_ALGORITHM, *dict.fromkeys(a.title for a in ALGORITHMS)],
        }
        return {name: _list(choices, values[name]) for name, choices in lists.items()}

    def start(self, converts: bool, values: FormValues) -> dict[str, Any]:
        """Plan a batch or run it."""

        def prepare() -> Start:
            asked = batch_order(values, self.host)
            if asked.order is None:
                settings = staying(output_folder(self.host), EXISTING[str(self.host.setting("exists"))])
            else:
                settings = settings_for(asked.order, self.host, across_families=False)
            work = BatchWork(asked, settings, self.host, self.tab.index)
            return Start(BatchJob(converts=converts), work, in_queue=False)

        updates = self.begin(values, prepare)
        # Where no job was started, the table of the last one stays.
        table = {"batch_rows": html.empty(), "batch_details": ""} if updates.get("batch_job") else {}
        return {**updates, **table, "batch_saved": ""}

    def rows(self, values: FormValues) -> dict[str, Any]:
        """The table of the batch as it is now."""
        job = self.job(values)
        return {"batch_rows": guarded(html.table)(job) if job is not None else html.empty()}

    def shown(self, values: FormValues) -> dict[str, Any]:
        """The table and the status of the batch."""
        return self.ended(values, self.rows)

    def details(self, values: FormValues) -> dict[str, Any]:
        """Everything about one row of the table."""
        job, name = self.job(values), values["batch_detailed"]
        report = job.report if job is not None else None
        if job is None or report is None or not isinstance(name, str) or name not in report.plan.facts:
            return {"batch_details": ""}
        outcome = report.outcome(name)
        answered = answers([outcome] if outcome is not None else [], self._outputs, self.tab)
        return {"batch_details": guarded(html.details)(job, name, answered)}

    def skip(self, values: FormValues) -> dict[str, Any]:
        """Leave out one LoRA of the batch; the table says so."""
        job = self.job(values)
        if job is not None:
            job.leave_out(values["batch_skipped"])
        return self.rows(values)

    def saved(self, kind: str, values: FormValues) -> dict[str, Any]:
        """The table as a file of the kind ``csv`` or ``json``."""
        return {"batch_saved": html.saved(self.job(values), kind, self.host.shown)}


def _list(choices: Sequence[str], chosen: object) -> Any:
    """An update with these choices; what was chosen stays if it is one of them."""
    return gr.update(choices=list(choices), value=chosen if chosen in choices else choices[0])
