"""The work of a job: one LoRA after another, each with an outcome of its own; and what work needs of the program."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lib_transfer.batches.convert import analysed, convert
from lib_transfer.batches.task import Task
from lib_transfer.batches.watch import ProgressWatch
from lib_transfer.conversion.outcome import Outcome, failed, settled
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError
from lib_transfer.library.adapters import Found
from lib_transfer.library.base import encoders_among
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import Convert, TransferSettings, decide
from lib_transfer.library.destination import Existing
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.progress import Progress
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.host.settings import KEEP_BOTH, LEAVE, REPLACE
from lib_transfer.webui.shell.jobs import Job, KeyedLock
from lib_transfer.webui.transfer.form import Order, output_folder
from lib_transfer.webui.transfer.growth import growth_told

EXISTING: dict[str, Existing] = {LEAVE: "skip", REPLACE: "overwrite", KEEP_BOTH: "both"}

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Work:
    """An order, and everything that is needed to carry it out.

    Attributes:
        order: what is asked for.
        host: the program.
        index: what the headers of files say.
        lock: held for a request while its output is made.
    """

    order: Order
    host: Host
    index: FileIndex
    lock: KeyedLock = field(default_factory=KeyedLock)

    def __call__(self, job: Job) -> None:
        """Work on every LoRA; one that fails does not keep the others back.

        Raises:
            CancelledError: the job was stopped.
        """
        # An analysis is made whether or not there is an output.
        outputs = None if job.kind == "analyse" else Outputs(self.index)
        library = library_of(self.host, self.index, job, outputs)
        written = False
        try:
            library.look()
            with growth_told(runtime(self.host).cache, job), self._memory():
                for number, (name, path) in enumerate(self.order.adapters.items()):
                    job.begin(number)
                    outcome = self._one(job, Found(name, path), library)
                    written = written or outcome.status == "written"
                    job.settled(outcome)
                    logger.info("Transfer LoRA: %r: %s %s", name, outcome.status, outcome.message)
        finally:
            if written:
                self.host.adapters_changed()

    def _one(self, job: Job, adapter: Found, library: Library) -> Outcome:
        def outcome() -> Outcome:
            decision = decide(adapter, self.order.target, settings_for(self.order, self.host), library)
            if isinstance(decision, Convert):
                return self._converted(job, decision, library)
            return settled(adapter.name, self.order.target, decision)

        return self._guarded(job, adapter.name, outcome)

    def convert(self, job: Job, decision: Convert, library: Library) -> Outcome:
        """Convert the one LoRA that was decided on; what goes wrong is the outcome.

        Raises:
            CancelledError: the job was stopped.
        """
        with self._memory():
            outcome = self._guarded(job, decision.name, lambda: self._converted(job, decision, library))
        if outcome.status == "written":
            self.host.adapters_changed()
        return outcome

    def _memory(self) -> AbstractContextManager[None]:
        """The limit of the GPU's memory; models that the program runs take what they take for a picture."""
        return nullcontext() if self.order.method.runs_models else gpu_memory(self.host)

    def _guarded(self, job: Job, name: str, work: Callable[[], Outcome]) -> Outcome:
        began = time.monotonic()
        try:
            outcome = work()
        except CancelledError:
            if job.interrupted:
                raise
            outcome = Outcome(name, "", self.order.target.name, "left out", "Skipped; nothing was written.")
        except Exception as error:
            outcome = failed(name, None, self.order.target, error)
        return replace(outcome, seconds=time.monotonic() - began)

    def _converted(self, job: Job, decision: Convert, library: Library) -> Outcome:
        """Analyse the LoRA, or convert it as a batch of one."""
        run = runtime(self.host)
        if job.kind == "analyse":
            return analysed(decision, run, job)
        asked = decision.job(library.hashes, job)
        taken = frozenset() if library.outputs is None else frozenset(library.outputs.stems)
        task = Task((decision,), run, taken, keeps_reports=True, models=self.host.models)
        with self.lock.holding(asked.request.digest, job.cancelled):
            [outcome] = convert(task, ProgressWatch(job))
        if outcome.path is not None and library.outputs is not None:
            library.outputs.add(outcome.path)
        return outcome


def settings_for(order: Order, host: Host, *, across_families: bool = True) -> TransferSettings:
    """How the LoRAs of ``order`` are transferred, and where to, by the settings.

    Args:
        order: what is asked for.
        host: the program.
        across_families: whether LoRAs of another family are tried; for those that the person named one by one.

    Raises:
        RequestError: the output folder in the settings is no good.
    """
    return TransferSettings(
        order.method.id,
        order.settings,
        source=order.source,
        output=output_folder(host),
        template=str(host.setting("template")),
        existing=EXISTING[str(host.setting("exists"))],
        across_families=across_families,
    )


def library_of(host: Host, index: FileIndex, progress: Progress, outputs: Outputs | None) -> Library:
    """What the program's person has. No checkpoint is hashed to find out whether it is a source: that takes too long."""
    return Library(
        index,
        runtime(host).hashes,
        folders=host.adapter_folders(),
        checkpoints=tuple(host.checkpoints().values()),
        outputs=outputs,
        beside=host.encoders(),
        hash_sources=False,
        progress=progress,
    )


def files_of(host: Host, checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The checkpoint's file, and those of the text encoders that the program loads with it.

    Raises:
        TransferError: the program loads further files, and the checkpoint cannot be read.
    """
    beside = host.encoders()
    return (checkpoint.path, *(encoders_among(checkpoint.path, beside) if beside else ()))


@contextmanager
def gpu_memory(host: Host) -> Iterator[None]:
    """While it lasts, this process takes no more of the GPU's memory than the settings say, beyond what it holds now.

    The limit holds for the whole process, so it may be set only while no picture is being made.
    """
    gigabytes = float(host.setting("memory"))
    if not gigabytes or runtime(host).torch_device.type != "cuda":
        yield
        return
    _, total = torch.cuda.mem_get_info()
    share = (torch.cuda.memory_reserved() + gigabytes * 2**30) / total
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def runtime(host: Host) -> Runtime:
    """How transfers are computed, by the settings."""
    limit = int(float(host.setting("cache_size")) * 2**30)
    return Runtime(device=str(host.setting("device")), cache_folder=host.cache_folder(), cache_limit=limit)
