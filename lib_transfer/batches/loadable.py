"""Make LoRAs load: write them under the names and in the layout that the programs for their base read, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lib_transfer.batches.convert import analysed, convert
from lib_transfer.batches.task import Task
from lib_transfer.batches.watch import ProgressWatch
from lib_transfer.conversion.outcome import Outcome, failed, settled
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, TransferError
from lib_transfer.formats.adapter_file import outline_adapter
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import LOADS, Convert, Failed, LeftOut, TransferSettings, decide
from lib_transfer.library.library import Library, architecture_of, families
from lib_transfer.library.loads import obstacles
from lib_transfer.library.own_base import own_base

UNKNOWN = Checkpoint("", Path())


def make_loadable(
    adapter: Found,
    settings: TransferSettings,
    library: Library,
    runtime: Runtime,
    *,
    base: str = "",
    target: Checkpoint | None = None,
    writes: bool = True,
) -> Outcome:
    """What becomes of one LoRA; what was wrong with its file is among the notes.

    Args:
        adapter: the LoRA.
        settings: how and where to, as :func:`~lib_transfer.library.own_base.staying` has it.
        library: what the person has; its progress is told of every module, and asked whether to stop.
        runtime: how it is computed.
        base: the id of the architecture that it is for, where the file does not tell.
        target: a checkpoint that it works on, for what cannot be written without its weights.
        writes: whether the output is written.

    Raises:
        CancelledError: the person asked to stop.
        StorageError: the output could not be written.
    """
    facts = library.adapter(adapter.path)
    if facts.problem:
        return settled(adapter.name, UNKNOWN, Failed(facts.problem, exit_code=facts.exit_code))
    try:
        wrong = facts.obstacles
        if base:
            wrong = obstacles(outline_adapter(adapter.path), architecture_of(base))
        if not wrong and (base or families(*facts.architectures)):
            return settled(adapter.name, UNKNOWN, LeftOut("loads as it is", LOADS))
        on = target or own_base(facts, base)
        decision = decide(adapter, on, settings, library, thorough=writes)
        if not isinstance(decision, Convert):
            return settled(adapter.name, on, decision)
        if not writes:
            outcome = analysed(decision, runtime, library.progress)
        else:
            taken = frozenset() if library.outputs is None else frozenset(library.outputs.stems)
            [outcome] = convert(Task((decision,), runtime, taken, keeps_reports=True), ProgressWatch(library.progress))
    except CancelledError:
        raise
    except TransferError as error:
        return failed(adapter.name, None, target or UNKNOWN, error)
    return dataclasses.replace(outcome, notes=(*wrong, *outcome.notes))
