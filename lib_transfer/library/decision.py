"""What can become of a LoRA with a target, each with its sentence; and the settings that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lib_transfer import methods
from lib_transfer.errors import TransferError
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.destination import TEMPLATE, Destination, Existing
from lib_transfer.library.index import AdapterFacts
from lib_transfer.library.job import Job, make_job
from lib_transfer.methods import Method, Value
from lib_transfer.progress import SILENT, Progress
from lib_transfer.storage.hashes import Hashes


@dataclass(frozen=True)
class TransferSettings:
    """How LoRAs are transferred and where their outputs go: what those of one job have in common, beside the target.

    Attributes:
        method: the id of the method.
        values: the method's settings, checked.
        source: the checkpoint that all LoRAs were trained on; None to find each one's own.
        output: the folder below which the LoRAs' own folders are mirrored; None for each LoRA's own folder.
        file: the very file to write, for one LoRA alone.
        template: the pattern of the outputs' names.
        existing: what to do where another output is in the way.
        across_families: whether LoRAs of another family than the target's are tried, because a text encoder may be common
            to both; the conversion then says what corresponds to nothing.
        same_base: whether the LoRAs stay on the base that they were trained on, and only names and layout change.
        takes_better: whether an output of a method that runs models, for the same checkpoints, is taken in place of that of the
            method.
    """

    method: str
    values: Mapping[str, Value]
    source: Checkpoint | None = None
    output: Path | None = None
    file: Path | None = None
    template: str = TEMPLATE
    existing: Existing = "skip"
    across_families: bool = False
    same_base: bool = False
    takes_better: bool = False

    @property
    def how(self) -> Method:
        """The method."""
        return methods.get(self.method)


@dataclass(frozen=True)
class Convert:
    """The LoRA is to be transferred.

    Attributes:
        adapter, target, settings: what :func:`decide` was asked about; the target with its text encoders.
        facts: what the LoRA's header says.
        source: the checkpoint that it was trained on; None where the method needs none.
        destination: where the output goes.
        size: the size of the LoRA's file in bytes.
        sentence, hint: the decision in words, and what the person can do.
    """

    adapter: Found
    target: Checkpoint
    settings: TransferSettings
    facts: AdapterFacts
    source: Checkpoint | None
    destination: Destination
    size: int
    sentence: str = "It is to be transferred."
    hint: str = ""

    @property
    def name(self) -> str:
        """The name of the LoRA."""
        return self.adapter.name

    @property
    def path(self) -> Path:
        """The file of the LoRA."""
        return self.adapter.path

    def job(self, hashes: Hashes, progress: Progress = SILENT) -> Job:
        """The job, for which the files are hashed.

        Raises:
            TransferError: a file cannot be read, or ``progress`` said to stop.
        """
        made = job_of(self.adapter, self.source, self.target, self.settings, hashes, progress)
        return replace(made, destination=self.destination)


@dataclass(frozen=True)
class Done:
    """The output is there already, undamaged.

    Attributes:
        path: the output.
        job: the job that it is the output of.
        facts: what the LoRA's header says.
        source: the checkpoint that the LoRA was trained on; None where the method needs none.
        sentence, hint: the decision in words, and what the person can do.
    """

    path: Path
    job: Job
    facts: AdapterFacts
    source: Checkpoint | None
    sentence: str = "Its output is there already."
    hint: str = ""


@dataclass(frozen=True)
class LeftOut:
    """There is nothing to do for this LoRA, and nothing is wrong.

    Attributes:
        why: ``trained on the target``, ``another family``, ``no LoRA`` or ``loads as it is``.
        sentence, hint: the decision in words, and what the person can do.
        source: the checkpoint that it was trained on, where that is known.
    """

    why: Literal["trained on the target", "another family", "no LoRA", "loads as it is"]
    sentence: str
    hint: str = ""
    source: Checkpoint | None = None


@dataclass(frozen=True)
class Failed:
    """The LoRA cannot be transferred.

    Attributes:
        sentence, hint: why, and what the person can do.
        source: the checkpoint that it was trained on, where that is known.
        exit_code: what the command line ends with.
    """

    sentence: str
    hint: str = ""
    source: Checkpoint | None = None
    exit_code: int = TransferError.exit_code


LOADS = "It loads as it is: its names are those that the programs for its base know. Nothing was written."

Decision = Convert | Done | LeftOut | Failed


def job_of(
    adapter: Found,
    source: Checkpoint | None,
    target: Checkpoint,
    settings: TransferSettings,
    hashes: Hashes,
    progress: Progress,
) -> Job:
    """The job that these make, for which the files are hashed.

    Raises:
        TransferError: a file cannot be read, or ``progress`` said to stop.
    """
    return make_job(
        adapter.path,
        target=target.files,
        source=None if source is None else source.files,
        method=settings.method,
        architecture=target.architecture,
        settings=settings.values,
        hashes=hashes,
        progress=progress,
    )
