"""What the events of every view share: the program, the jobs, what is known of files, and how a job is started."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib_transfer.errors import TransferError, internal
from lib_transfer.library.index import FileIndex
from lib_transfer.webui.host.folders import JOBS
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.jobs import Board, Job, KeyedLock
from lib_transfer.webui.shell.record import JobRecords
from lib_transfer.webui.shell.status import refused, status, unfinished

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Start:
    """A job that is ready to be started.

    Attributes:
        job: the job.
        work: what is run in the job's thread.
        in_queue: whether the job holds a slot of the program's queue for as long as it runs.
    """

    job: Job
    work: Callable[[Any], None]
    in_queue: bool


class TabEvents:
    """One for the whole program, shared by the views. What belongs to one browser window arrives from that window."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.board = Board(JobRecords(lambda: host.cache_folder() / JOBS))
        self.once = KeyedLock()
        self.index = FileIndex(host.cache_folder())


class ViewEvents:
    """The events of a view that follows one job in each window.

    Args:
        tab: what the views share.
        prefix: what stands before the names of the view's controls ``job`` and ``status``.
    """

    def __init__(self, tab: TabEvents, prefix: str = "") -> None:
        self.tab = tab
        self.host = tab.host
        self.job_name, self.status_name = f"{prefix}job", f"{prefix}status"

    def job(self, values: FormValues) -> Job | None:
        """The window's job; None where it has none."""
        return self.tab.board.get(values[self.job_name])

    def begin(self, values: FormValues, prepare: Callable[[], Start]) -> dict[str, Any]:
        """Start a job: updates of the view's job and status.

        While the window's last job goes on, its status is all there is. Where no job could be started, the job is "".
        """
        running = self.job(values)
        if running is not None and running.active:
            return {self.status_name: status(running)}
        try:
            start = prepare()
        except TransferError as error:
            return {self.job_name: "", self.status_name: refused((error.message, error.hint))}
        except Exception as error:
            logger.exception("Transfer LoRA: a job could not be started")
            ours = internal(error)
            return {self.job_name: "", self.status_name: refused((ours.message, ours.hint))}
        slot = functools.partial(self.host.gpu_turn, start.job.id) if start.in_queue else None
        self.tab.board.start(start.job, start.work, slot)
        return {self.job_name: start.job.id, self.status_name: status(start.job)}

    def poll(self, values: FormValues) -> dict[str, Any]:
        """The status of the job; this is called again and again, so it does nothing else."""
        job = self.job(values)
        left = self.tab.board.records.find(values[self.job_name]) if job is None else None
        return {self.status_name: status(job) if left is None else unfinished(left)}

    def interrupt(self, values: FormValues) -> dict[str, Any]:
        """Stop the job."""
        job = self.job(values)
        if job is not None:
            job.interrupt()
        return {self.status_name: status(job)}

    def skip(self, values: FormValues) -> dict[str, Any]:
        """Leave out the LoRA that the job is working on."""
        job = self.job(values)
        if job is not None:
            job.skip()
        return {self.status_name: status(job)}
