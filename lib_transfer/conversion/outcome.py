"""What became of one LoRA of a job, as the page shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lib_transfer.conversion.report import TransferReport

Status = Literal["analysed", "written", "already done", "nothing carried", "left out", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one LoRA.

    Attributes:
        name: of the LoRA.
        source, target: names of the checkpoints; source is "" where the method needs none.
        status: what was done.
        message, hint: for one that failed: what is wrong, and what to do.
        report: the whole report, where one was made.
        summary: the few facts that an output that was there already says of itself.
        path: of the output.
        notes: further sentences.
        seconds: how long it took.
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
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def facts(self) -> Mapping[str, Any]:
        """The summary of the report, or that of the output; empty where there is none."""
        return self.report.summary() if self.report is not None else self.summary or {}

    @property
    def verdict(self) -> str:
        """The engine's verdict in sentences; "" where there is none."""
        text = self.facts.get("verdict", "")
        return text if isinstance(text, str) else ""

    @property
    def tag(self) -> str:
        """The prompt tag of the output; "" where there is none."""
        return f"<lora:{self.path.stem}:1>" if self.path is not None else ""


def summary_in(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The summary in the metadata of an output of ours; empty where it is damaged."""
    try:
        summary = json.loads(metadata.get("transfer_lora.report", ""))
    except ValueError:
        return {}
    return summary if isinstance(summary, dict) else {}


def summary_of(path: Path) -> Mapping[str, Any]:
    """The summary that the output at ``path`` says of itself.

    Raises:
        BadFileError, StorageError: it cannot be read.
    """
    from lib_transfer.formats.safetensors_file import read_header  # noqa: PLC0415 - the tab is built without it

    return summary_in(read_header(path).metadata)
