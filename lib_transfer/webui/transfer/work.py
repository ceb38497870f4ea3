"""The work of a job: one LoRA after another, each with an outcome of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.conversion.outcome import Outcome, summary_of
from lib_transfer.errors import CancelledError, MismatchError, OutputExistsError, RequestError, TransferError
from lib_transfer.library.index import AdapterFacts, FileIndex
from lib_transfer.library.source_checkpoint import Checkpoint, doubts, find
from lib_transfer.webui.host import files
from lib_transfer.webui.host.device import limited
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.host.settings import KEEP_BOTH, REPLACE
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.shell.once import Once
from lib_transfer.webui.transfer.form import Order, output_folder

if TYPE_CHECKING:
    from lib_transfer.conversion.runtime import Runtime
    from lib_transfer.conversion.transfer import TransferResult
    from lib_transfer.library.destination import Destination
    from lib_transfer.library.request import TransferRequest

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Work:
    """An order, and everything that is needed to carry it out."""

    order: Order
    host: Host
    index: FileIndex
    once: Once = field(default_factory=Once)

    def __call__(self, job: Job) -> None:
        """Work on every LoRA; one that fails does not keep the others back.

        Raises:
            CancelledError: the job was stopped.
        """
        written = False
        try:
            with gpu_memory(self.host):
                for number, (name, path) in enumerate(self.order.adapters.items()):
                    job.begin(number)
                    outcome = self._one(job, name, path)
                    written = written or outcome.status == "written"
                    job.outcomes.append(outcome)
                    logger.info("Transfer LoRA: %r: %s %s", name, outcome.status, outcome.message)
        finally:
            if written:
                self.host.adapters_changed()

    def _one(self, job: Job, name: str, path: Path) -> Outcome:
        facts = self.index.adapter(path) or AdapterFacts(problem=f"{path.name} is gone.")
        source = self._source(facts)
        began = time.monotonic()
        failed = Outcome(name, source.name if source else "", self.order.target.name, "failed")
        try:
            outcome = self._carried(job, path, source, facts, failed)
        except CancelledError:
            if job.interrupted:
                raise
            outcome = replace(failed, status="left out", message="Skipped; nothing was written.")
        except TransferError as error:
            outcome = replace(failed, message=error.message, hint=error.hint)
        except Exception as error:
            logger.exception("Transfer LoRA: %r failed", name)
            outcome = replace(
                failed,
                message=f"This is an error in Transfer LoRA itself: {type(error).__name__}: {error}",
                hint="Nothing was written. Please report it with the lines in the WebUI's console.",
            )
        return replace(outcome, seconds=time.monotonic() - began)

    def _source(self, facts: AdapterFacts) -> Checkpoint | None:
        if not self.order.method.needs_source:
            return None
        return self.order.source or find(facts, self.host.checkpoints().values()).checkpoint

    def _carried(
        self, job: Job, path: Path, source: Checkpoint | None, facts: AdapterFacts, so_far: Outcome
    ) -> Outcome:
        from lib_transfer.conversion.transfer import analyse, transfer  # noqa: PLC0415 - torch is imported when it is used

        order = self.order
        if source is None and order.method.needs_source:
            raise self._no_source(facts)
        if source is not None and source.path == order.target.path and self.order.source is None:
            raise MismatchError(
                f"This LoRA was trained on the target itself, {order.target.name}: there is nothing to transfer.",
                hint="Use it as it is, or choose another target.",
            )
        run = runtime(self.host)
        request = requested(order, path, source, self.host, job.cancelled)
        notes = doubts(facts, source, request.source_sha256)
        if job.kind == "analyse":
            return replace(so_far, status="analysed", report=analyse(request, runtime=run, progress=job), notes=notes)
        with self.once.making(request.digest, job.cancelled):
            result = self._written(lambda d: transfer(request, d, runtime=run, progress=job), request)
        summary = summary_of(result.path) if result.report is None and result.path else None
        return replace(
            so_far,
            status=result.status,
            report=result.report,
            summary=summary,
            path=result.path,
            notes=(*notes, *result.warnings),
        )

    def _written(self, transfer: Callable[[Destination], TransferResult], request: TransferRequest) -> TransferResult:
        """Transfer to where the settings say, and do as they say when something is there already."""
        from lib_transfer.library.destination import Destination, output_path  # noqa: PLC0415

        template, exists = str(self.host.setting("template")), self.host.setting("exists")
        destination = Destination(output_folder(self.host), template=template, overwrite=exists == REPLACE)
        path = output_path(request, destination)
        elsewhere = [
            p
            for p in files.adapters(self.host.adapter_folders()).values()
            if p.stem.casefold() == path.stem.casefold() and p != path
        ]
        try:
            if elsewhere:
                raise OutputExistsError(
                    f"A LoRA of the name {path.stem} is in another folder, and the WebUI knows LoRAs by name alone.",
                    hint="Change the name template in the settings, for example to one with {hash8}.",
                )
            return transfer(destination)
        except OutputExistsError:
            if exists != KEEP_BOTH or "{hash8}" in template:
                raise
            return transfer(replace(destination, template=template + "_{hash8}"))

    def _no_source(self, facts: AdapterFacts) -> RequestError:
        if facts.problem:
            return RequestError(facts.problem)
        asks = f"It asks for {facts_asked(facts)}, which" if facts_asked(facts) else "Its metadata names none, so it"
        return RequestError(
            f"The checkpoint that this LoRA was trained on is not known. {asks} was not found among the installed ones.",
            hint="Choose the nearest relative under Source checkpoint, or the method Copy, which does without.",
        )


def facts_asked(facts: AdapterFacts) -> str:
    """What the LoRA asks for, in words."""
    return find(facts, ()).asks_for


def requested(
    order: Order, adapter: Path, source: Checkpoint | None, host: Host, cancelled: Callable[[], bool]
) -> TransferRequest:
    """What ``order`` asks of the engine for one LoRA.

    Raises:
        TransferError: a file cannot be read, or ``cancelled`` said to stop.
    """
    from lib_transfer.library import request as engine  # noqa: PLC0415 - torch is imported when it is used

    return engine.request(
        adapter,
        target=host.files_of(order.target),
        source=host.files_of(source) if source else None,
        method=order.method.id,
        settings=order.settings,
        hashes=runtime(host).hashes,
        cancelled=cancelled,
    )


def gpu_memory(host: Host) -> AbstractContextManager[None]:
    """While it lasts, this process takes no more of the GPU's memory than the settings say."""
    gigabytes = float(host.setting("memory"))
    return limited(gigabytes) if gigabytes > 0 and runtime(host).torch_device.type == "cuda" else nullcontext()


def runtime(host: Host) -> Runtime:
    """The engine's runtime as the settings say."""
    from lib_transfer.conversion.runtime import Runtime  # noqa: PLC0415

    limit = int(float(host.setting("cache_size")) * 2**30)
    return Runtime(device=str(host.setting("device")), cache_folder=host.cache_folder(), cache_limit=limit)
