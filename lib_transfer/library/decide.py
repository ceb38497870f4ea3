"""The one decision: what becomes of a LoRA with a target. Writes nothing, and computes nothing but hashes of files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lib_transfer import methods
from lib_transfer.errors import CancelledError, OutputExistsError, RequestError, StorageError, TransferError
from lib_transfer.formats.peft_folder import adapter_home, adapter_name
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.destination import HASH, TEMPLATE, Destination, Existing, numbered
from lib_transfer.library.index import AdapterFacts
from lib_transfer.library.job import Job, make_job
from lib_transfer.library.library import Library, families
from lib_transfer.library.outputs import Outputs
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
        made = _job(self.adapter, self.source, self.target, self.settings, hashes, progress)
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


def decide(
    adapter: Found, target: Checkpoint, settings: TransferSettings, library: Library, *, thorough: bool = False
) -> Decision:
    """What is to become of ``adapter`` with ``target``.

    Args:
        adapter: the LoRA.
        target: the checkpoint that it is to work on.
        settings: how.
        library: what the person has. Outputs are found that were there at the last :meth:`Library.look`.
        thorough: hash the files in any case, and look for outputs anew where none is known: for one LoRA that is needed
            now. Otherwise a LoRA is hashed only where its output may be there, or where its name depends on it.

    Raises:
        CancelledError: it was stopped meanwhile.
    """
    facts = library.adapter(adapter.path)
    source: Checkpoint | None = None
    try:
        architecture = library.architecture(target, "The target")
        unfit = _unfit(facts, architecture, settings)
        if unfit is not None:
            return unfit
        found = _source(facts, target, settings, library)
        if isinstance(found, LeftOut | Failed):
            return found
        source = found
        if source is not None:
            of_source = library.architecture(source, "Its source")
            if not settings.across_families and families(of_source) != families(architecture):
                return Failed(f"Its source {source.name} is {of_source}, the target {architecture}.", source=source)
            source = library.with_encoders(source)
        return _placed(adapter, facts, source, library.with_encoders(target), settings, library, thorough)
    except CancelledError:
        raise
    except TransferError as error:
        return Failed(error.message, error.hint, source, error.exit_code)
    except OSError as error:
        message = f"{adapter.path} cannot be looked at: {error.strerror}."
        return Failed(message, source=source, exit_code=StorageError.exit_code)


def _unfit(facts: AdapterFacts, target: str, settings: TransferSettings) -> LeftOut | Failed | None:
    """Why a file is no LoRA for a target of the architecture ``target``."""
    if facts.problem:
        return LeftOut("no LoRA", facts.problem) if facts.foreign else Failed(facts.problem, exit_code=facts.exit_code)
    if not settings.across_families and families(target).isdisjoint(families(*facts.architectures)):
        if not facts.architectures:
            return LeftOut("another family", facts.doubt or "What it is for is not known.")
        if not families(*facts.architectures):
            return LeftOut("another family", f"It is for {facts.base}, which is not supported; the target is {target}.")
        return LeftOut(
            "another family", f"It is for {facts.base}, the target is {target}: their weights do not correspond."
        )
    return None


def _source(
    facts: AdapterFacts, target: Checkpoint, settings: TransferSettings, library: Library
) -> Checkpoint | LeftOut | Failed | None:
    """The checkpoint that a LoRA was trained on; None where the method does without."""
    if settings.source is not None:
        return settings.source if settings.how.needs_source else None
    match = library.source(facts)
    if settings.same_base:
        return None
    if match.checkpoint is not None and match.checkpoint.path == target.path:
        return _trained_on(target, match.checkpoint if settings.how.needs_source else None)
    if not settings.how.needs_source:
        return None
    if match.checkpoint is None:
        asks = (
            f"It asks for {match.asks_for}, which is not installed." if match.asks_for else "Its metadata names none."
        )
        return Failed(
            f"The checkpoint that it was trained on is not known. {asks}",
            "Name the nearest relative as the source, or take the method reuse, which does without.",
        )
    return match.checkpoint


def _trained_on(target: Checkpoint, source: Checkpoint | None) -> LeftOut:
    return LeftOut(
        "trained on the target",
        f"This LoRA was trained on the target itself, {target.name}: there is nothing to transfer.",
        "Use it as it is, or choose another target.",
        source,
    )


def _placed(
    adapter: Found,
    facts: AdapterFacts,
    source: Checkpoint | None,
    target: Checkpoint,
    settings: TransferSettings,
    library: Library,
    thorough: bool,
) -> Decision:
    """Where the output goes, unless it is there already."""
    folder = adapter_home(adapter.path) if settings.output is None else settings.output / adapter.below
    overwrite = settings.existing == "overwrite"
    destination = Destination(folder, settings.file, settings.template, overwrite)
    outputs = library.outputs
    # Reading a whole file to hash it is put off to the conversion, where nothing is there that depends on it.
    early = (
        thorough
        or HASH not in settings.template
        or (outputs is not None and outputs.made_from(adapter_name(adapter.path)))
    )
    if outputs is not None and early:
        job = _job(adapter, source, target, settings, library.hashes, library.progress)
        if source is not None and settings.source is None and job.request.source_sha256 == job.request.target_sha256:
            return _trained_on(target, source)
        better = outputs.by_models(job.request) if settings.takes_better else ()
        for path in filter(outputs.intact, better):
            return Done(path, replace(job, request=replace(job.request, method=methods.AUTO)), facts, source)
        job = replace(job, destination=replace(destination, overwrite=False))
        there = _there(job, outputs, library, thorough)
        intact = next((path for path in there if outputs.intact(path)), None)
        if intact is not None:
            return Done(intact, job, facts, source)
        destination = _named(job, destination, there, outputs, settings.existing, library.given)
    size = os.stat(adapter.path).st_size  # noqa: PTH116 - as the path is
    return Convert(adapter, target, settings, facts, source, destination, size)


def _there(job: Job, outputs: Outputs, library: Library, thorough: bool) -> list[Path]:
    """The outputs of a job that are there, damaged ones among them."""
    there = outputs.of(job.request)
    if not there:
        with contextlib.suppress(RequestError):
            there = outputs.of(job.request, job.output)
    if not there and thorough:
        library.look()
        there = outputs.of(job.request)
    return there


def _named(
    job: Job, plain: Destination, damaged: Sequence[Path], outputs: Outputs, existing: Existing, given: set[str]
) -> Destination:
    """Where the output goes: a file name that no other LoRA has.

    Args:
        job: the job.
        plain: where it goes if nothing is in the way.
        damaged: outputs that say they are the wanted one, and are not.
        outputs: what is there.
        existing: what to do with what is in the way.
        given: names that others have got; this one is added.

    Raises:
        OutputExistsError: something is in the way that is to be left alone.
    """
    path = job.output
    stem = path.stem.casefold()
    in_the_way = [*damaged, *([] if stem in given else outputs.others(job.request, path))]
    if in_the_way and existing == "skip":
        raise _refusal(in_the_way[0], damaged)
    taken = given | outputs.stems
    replaces = existing == "overwrite" and path in in_the_way
    chosen = plain if replaces or (not damaged and stem not in taken) else numbered(path, taken)
    given.add(stem if chosen is plain else replace(job, destination=chosen).output.stem.casefold())
    return chosen


def _refusal(path: Path, damaged: Sequence[Path]) -> OutputExistsError:
    if path in damaged:
        return OutputExistsError(
            f"{path} is there, but was changed since it was written: it was edited or is damaged.",
            hint="Overwriting makes it anew, keeping both leaves it and writes another one beside it.",
        )
    return OutputExistsError(
        f"{path} is there already, made with other settings or from another version of the LoRA.",
        hint="Overwriting retires it, keeping both writes another one beside it.",
    )


def _job(
    adapter: Found,
    source: Checkpoint | None,
    target: Checkpoint,
    settings: TransferSettings,
    hashes: Hashes,
    progress: Progress,
) -> Job:
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
