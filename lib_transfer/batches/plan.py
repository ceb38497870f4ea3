"""The plan of a batch: which adapters will be converted, and what keeps each of the others from it. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.conversion.outcome import Outcome, settled
from lib_transfer.errors import TransferError
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import Convert, Decision, Failed, TransferSettings, decide
from lib_transfer.library.index import AdapterFacts
from lib_transfer.library.library import Library
from lib_transfer.library.own_base import own_base
from lib_transfer.progress import Progress, check

OWN_BASES = Checkpoint("", Path())
"""Stands for the targets of a plan in which each adapter stays on its own base."""


@dataclass(frozen=True)
class BatchPlan:
    """What a batch will do.

    Attributes:
        target: the checkpoint that the adapters are to work on; :data:`OWN_BASES` where each stays on its own.
        settings: how they are transferred.
        facts: what the header of every file says, by name, in the order of the names; transferred LoRAs are not among
            them unless they were asked for.
        items: what will be converted.
        settled: what became of the others already, by name.
        taken: the file names in the folders, without ending and casefolded.
        passed_over: how many transferred LoRAs were passed over.
    """

    target: Checkpoint
    settings: TransferSettings
    facts: Mapping[str, AdapterFacts]
    items: tuple[Convert, ...]
    settled: dict[str, Outcome]
    taken: frozenset[str]
    passed_over: int


def plan(
    found: Sequence[Found],
    target: Checkpoint | None,
    settings: TransferSettings,
    library: Library,
    progress: Progress,
    *,
    transferred: bool = False,
    wanted: Callable[[AdapterFacts], bool] = lambda _: True,
) -> BatchPlan:
    """Look into every file, and decide.

    Args:
        found: the files.
        target: the checkpoint that they are to work on; None where those that may not load as they are are written anew, each for
            its own base.
        settings: how they are transferred.
        library: what the person has, with outputs. An adapter is hashed only where an output of an adapter of its name is
            there.
        progress: is told of every file.
        transferred: whether transferred LoRAs are carried on, too.
        wanted: whether a file with these facts counts; the others are not looked at any further.

    Raises:
        RequestError: the target is no checkpoint that can be used, or the settings are none of the method.
        CancelledError: the person asked to stop.
    """
    progress.start(len(found), "looking into the LoRAs")
    if target is not None:
        library.architecture(target, "The target")
    library.look()
    facts: dict[str, AdapterFacts] = {}
    items: list[Convert] = []
    others: dict[str, Outcome] = {}
    passed_over = 0
    for each in found:
        check(progress)
        about = library.adapter(each.path)
        progress.step(each.name)
        if not wanted(about) or (target is None and not about.obstacles):
            continue
        if about.parent is not None and not transferred:
            passed_over += 1
            continue
        facts[each.name] = about
        decision = _decided(each, about, target, settings, library)
        if isinstance(decision, Convert):
            items.append(decision)
        else:
            others[each.name] = settled(each.name, target or OWN_BASES, decision)
    taken = frozenset() if library.outputs is None else frozenset(library.outputs.stems)
    return BatchPlan(target or OWN_BASES, settings, facts, tuple(items), others, taken, passed_over)


def _decided(
    adapter: Found, facts: AdapterFacts, target: Checkpoint | None, settings: TransferSettings, library: Library
) -> Decision:
    try:
        on = target or own_base(facts)
    except TransferError as error:
        return Failed(error.message, error.hint, exit_code=error.exit_code)
    return decide(adapter, on, settings, library)
