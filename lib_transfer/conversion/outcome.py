"""What became of one LoRA of a job, for the page, the command line and the table of a batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lib_transfer.conversion.accounts import Accounts, accounts_in
from lib_transfer.conversion.report import TransferReport
from lib_transfer.errors import TransferError, internal
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.checkpoints import Checkpoint, doubts
from lib_transfer.library.decide import Done, Failed, LeftOut

Status = Literal["to convert", "analysed", "written", "already done", "nothing carried", "left out", "failed"]
"""What became of a LoRA; ``to convert`` as long as nothing has."""

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Outcome:
    """What became of one LoRA.

    Attributes:
        name: the name of the LoRA.
        source, target: the names of the checkpoints; source is "" where the method needs none.
        status: what was done.
        message, hint: why it was left out or failed, and what to do about it.
        report: the whole report, where one was made and is kept.
        summary: the few facts of the report, or those that an output that was there already says of itself.
        path: the output.
        sidecars: files carried along with it, such as previews.
        notes: further sentences.
        seconds: how long it took.
        exit_code: what the command line ends with where it failed.
        why: why it was left out, as :class:`~lib_transfer.library.decide.LeftOut` has it; "" where it was not, or by the person.
    """

    name: str
    source: str
    target: str
    status: Status
    message: str = ""
    hint: str = ""
    report: TransferReport | None = None
    summary: Mapping[str, Any] | None = None
    path: Path | None = None
    sidecars: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    exit_code: int = 0
    why: str = ""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The summary of the report, or that of the output; empty where there is none."""
        return self.report.summary() if self.report is not None else self.summary or {}

    @property
    def accounts(self) -> Accounts | None:
        """Where every tensor of the file went; None where that is not known."""
        return accounts_in(self.facts)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stands beside the status, each a part of a sentence: what was lost, and that the LoRA changes nothing."""
        lost = self.accounts.words if self.accounts is not None else ""
        nothing = "it changes nothing: every update in it is zero"
        return (*([f"{lost} not carried"] if lost else []), *([nothing] if self.facts.get("changes_nothing") else []))

    @property
    def verdict(self) -> str:
        """The verdict of the report in sentences; "" where there is none."""
        text = self.facts.get("verdict", "")
        return text if isinstance(text, str) else ""

    @property
    def tag(self) -> str:
        """The prompt tag of the output; "" where there is none."""
        return f"<lora:{self.path.stem}:1>" if self.path is not None else ""


def settled(name: str, target: Checkpoint, decision: Done | LeftOut | Failed) -> Outcome:
    """The outcome of a LoRA that is not converted.

    Raises:
        BadFileError, StorageError: the output that is there cannot be read.
    """
    source = decision.source
    known = (name, source.name if source else "", target.name)
    if isinstance(decision, Done):
        notes = doubts(decision.facts, source, decision.job.request.source_sha256)
        return Outcome(*known, "already done", summary=summary_of(decision.path), path=decision.path, notes=notes)
    if isinstance(decision, Failed):
        return Outcome(*known, "failed", decision.sentence, decision.hint, exit_code=decision.exit_code)
    return Outcome(*known, "left out", decision.sentence, decision.hint, why=decision.why)


def failed(name: str, source: Checkpoint | None, target: Checkpoint, error: Exception) -> Outcome:
    """The outcome of a LoRA that ``error`` kept from being converted. An error of our own is logged with its traceback."""
    if not isinstance(error, TransferError):
        logger.error("Transfer LoRA: %r failed", name, exc_info=error)
        error = internal(error)
    known = (name, source.name if source else "", target.name)
    return Outcome(*known, "failed", error.message, error.hint, exit_code=error.exit_code)


def summary_of(path: Path) -> Mapping[str, Any]:
    """The summary that the output at ``path`` says of itself; empty where it is damaged.

    Raises:
        BadFileError, StorageError: it cannot be read.
    """
    try:
        summary = json.loads(read_header(path).metadata.get("transfer_lora.report", ""))
    except ValueError:
        return {}
    return summary if isinstance(summary, dict) else {}
