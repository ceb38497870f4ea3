"""What happens at each event of the Batch view."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_transfer.webui.batch import html as table
from lib_transfer.webui.batch.form import ANY_ALGORITHM, ANY_BASE, CHOSEN, EVERYWHERE, Asked, batch_order, folders
from lib_transfer.webui.batch.job import BatchJob
from lib_transfer.webui.batch.work import BatchWork
from lib_transfer.webui.host import files
from lib_transfer.webui.shell import status
from lib_transfer.webui.transfer.events import Desk, Start, told


class BatchDesk:
    """The events, on the jobs, the index and the program of ``desk``."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def opened(self, folder: object, base: object, algorithm: object) -> tuple[Any, ...]:
        """The lists, when the view is first looked at or refreshed. What is chosen stays if it is still there."""
        from lib_transfer.architecture import architectures  # noqa: PLC0415 - torch is imported when it is used
        from lib_transfer.formats.algorithms import ALGORITHMS  # noqa: PLC0415

        host = self.desk.host
        names = files.adapters(host.adapter_folders())
        self.desk.index.scan(names.values(), [c.path for c in host.checkpoints().values()])
        return (
            _choices([EVERYWHERE, CHOSEN, *folders(names)], folder),
            _choices([ANY_BASE, *(a.title for a in architectures())], base),
            _choices([ANY_ALGORITHM, *dict.fromkeys(a.title for a in ALGORITHMS)], algorithm),
        )

    def start(self, converts: bool, job_id: object, *values: Any) -> tuple[Any, ...]:
        """Start a job: its id, its status, and an empty table. A window whose last batch goes on gets that one's status."""

        def prepare() -> Start:
            order = batch_order(Asked(*values[:9], values=values[9:]), self.desk.host)
            return Start(BatchJob(converts=converts), BatchWork(order, self.desk.host, self.desk.index), in_turn=False)

        job, said, *_ = self.desk.begin(job_id, prepare)
        # Where no job was started, what the last one came to stays.
        return job, said, table.EMPTY if isinstance(job, str) and job else gr.update(), ""

    def rows(self, job_id: object) -> str:
        """The table of a batch, as it is now."""
        job = self._job(job_id)
        return self._table(job) if job is not None else table.EMPTY

    @told
    def _table(self, job: BatchJob) -> str:
        return table.batch_table(job)

    def interrupt(self, job_id: object) -> str:
        """Stop a batch."""
        return self.desk.interrupt(job_id)

    def skip(self, job_id: object, name: object) -> str:
        """Leave out one LoRA of a batch; the table says so."""
        job = self._job(job_id)
        if job is not None:
            job.leave_out(name)
        return self.rows(job_id)

    def saved(self, kind: str, job_id: object) -> str:
        """The table as a file, ``csv`` or ``json``."""
        return table.saved(self._job(job_id), kind)

    def poll(self, job_id: object) -> str:
        """The status of a batch."""
        job = self._job(job_id)
        return status.status(job) if job is not None else status.IDLE

    def _job(self, job_id: object) -> BatchJob | None:
        job = self.desk.board.get(job_id)
        return job if isinstance(job, BatchJob) else None


def _choices(choices: list[str], chosen: object) -> Any:
    """An update with these choices; what was chosen stays if it is one of them."""
    return gr.update(choices=choices, value=chosen if chosen in choices else choices[0])
