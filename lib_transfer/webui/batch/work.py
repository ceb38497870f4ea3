"""The work of a batch in the tab: plan, and convert one group after another."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import nullcontext
from dataclasses import dataclass

from lib_transfer.batches.convert import convert
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.estimate import estimate
from lib_transfer.batches.plan import BatchPlan, plan
from lib_transfer.batches.report import BatchReport
from lib_transfer.batches.task import Task, tasks
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, TransferError
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.index import FileIndex
from lib_transfer.library.outputs import Outputs
from lib_transfer.webui.batch.form import BatchOrder
from lib_transfer.webui.batch.job import BatchJob
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.growth import growth_told
from lib_transfer.webui.transfer.work import gpu_memory, library_of, runtime

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class BatchWork:
    """An order of a whole folder, and everything that is needed to carry it out."""

    asked: BatchOrder
    settings: TransferSettings
    host: Host
    index: FileIndex

    def __call__(self, job: Job) -> None:
        """Plan, and convert where that is wanted. What stops it is said in the job.

        Raises:
            CancelledError: the job was stopped.
        """
        assert isinstance(job, BatchJob)
        job.begin(0)
        try:
            with growth_told(runtime(self.host).cache, job):
                self._run(job)
        except CancelledError:
            raise
        except TransferError as error:
            job.problem = (error.message, error.hint)
        finally:
            if job.kind == "batch" and job.report is not None:
                job.said.append(f"Done: {job.report.words}.")
            if any(outcome.status == "written" for outcome in job.outcomes):
                self.host.adapters_changed()

    def _run(self, job: BatchJob) -> None:
        asked, run = self.asked, runtime(self.host)
        library = library_of(self.host, self.index, job, Outputs(self.index))
        planned = plan(
            asked.found,
            None if asked.order is None else asked.order.target,
            self.settings,
            library,
            job,
            transferred=asked.transferred,
            wanted=asked.wanted,
        )
        groups, takes = self._groups(planned, run, estimates=job.kind == "plan")
        report = BatchReport(planned)
        if asked.order is None and not planned.facts:
            job.said.append("None of these LoRAs needs other names: use them as they are.")
        if job.kind == "plan":
            job.report = report
            job.said += [report.headline, *takes]
            return
        watch = job.planned(report)
        runs_models = self.settings.how.runs_models
        in_queue = runs_models or (run.torch_device.type == "cuda" and asked.order is not None)
        for number, group in enumerate(groups):
            # On a GPU, and where models are run, every group waits for its turn in the program's queue, which pictures have too.
            turn = self.host.gpu_turn(f"{job.id}-{number}") if in_queue else nullcontext()
            with turn as job.turn, nullcontext() if runs_models else gpu_memory(self.host):
                for outcome in convert(dataclasses.replace(group, keeps_reports=True), watch):
                    logger.info("Transfer LoRA: %r: %s %s", outcome.name, outcome.status, outcome.message)
                    job.settled(self._told(outcome, planned))
            job.turn = None

    def _groups(self, planned: BatchPlan, run: Runtime, *, estimates: bool) -> tuple[list[Task], list[str]]:
        """The groups, and what they take in a sentence. Changing names alone takes no time worth an estimate."""
        if self.asked.order is None:
            return [Task((item,), run, planned.taken) for item in planned.items], []
        costs = Costs(planned)
        memory = int(float(self.host.setting("batch_memory")) * 2**30)
        groups = tasks(planned, run, costs, memory=memory, models=self.host.models)
        return groups, [str(estimate(planned, groups, costs, run, workers=1))] if groups and estimates else []

    def _told(self, outcome: Outcome, planned: BatchPlan) -> Outcome:
        """The outcome; of a LoRA that is made to load it tells what was wrong with its file."""
        if self.asked.order is not None:
            return outcome
        return dataclasses.replace(outcome, notes=(*planned.facts[outcome.name].obstacles, *outcome.notes))
