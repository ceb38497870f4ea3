"""The one decision: what becomes of a LoRA with a target. Writes nothing, and computes nothing but hashes of files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lib_transfer.errors import CancelledError, OutputExistsError, RequestError, StorageError, TransferError
from lib_transfer.formats.peft_folder import adapter_home, adapter_name
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decision import LOADS, Convert, Decision, Done, Failed, LeftOut, TransferSettings, job_of
from lib_transfer.library.destination import HASH, Destination, Existing, numbered
from lib_transfer.library.index import AdapterFacts
from lib_transfer.library.job import Job
from lib_transfer.library.library import Library, families
from lib_transfer.library.outputs import Outputs
from lib_transfer.methods import AUTO

__all__ = ["LOADS", "Convert", "Decision", "Done", "Failed", "LeftOut", "TransferSettings", "decide"]


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
        job = job_of(adapter, source, target, settings, library.hashes, library.progress)
        if source is not None and settings.source is None and job.request.source_sha256 == job.request.target_sha256:
            return _trained_on(target, source)
        better = _better(job, outputs, library) if settings.takes_better else None
        if better is not None:
            return Done(better, replace(job, request=replace(job.request, method=AUTO)), facts, source)
        job = replace(job, destination=replace(destination, overwrite=False))
        there = _there(job, outputs, library, thorough)
        intact = next((path for path in there if outputs.intact(path)), None)
        if intact is not None:
            return Done(intact, job, facts, source)
        destination = _named(job, destination, there, outputs, settings.existing, library.given)
    size = os.stat(adapter.path).st_size  # noqa: PTH116 - as the path is
    return Convert(adapter, target, settings, facts, source, destination, size)


def _better(job: Job, outputs: Outputs, library: Library) -> Path | None:
    """The best output of a method that runs models for the checkpoints of ``job``; None where there is none."""
    library.look()
    return next(filter(outputs.intact, outputs.by_models(job.request)), None)


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
