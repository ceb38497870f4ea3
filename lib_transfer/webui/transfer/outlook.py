"""What a transfer of the chosen LoRAs would come to, before it is started: decided by the rule that the job decides by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.batches.costs import Costs
from lib_transfer.batches.estimate import Estimate, estimate, remembered
from lib_transfer.batches.plan import BatchPlan
from lib_transfer.batches.task import Task
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import Convert, Decision, LeftOut, TransferSettings, decide
from lib_transfer.library.index import AdapterFacts
from lib_transfer.library.library import Library, families


@dataclass(frozen=True)
class Prospect:
    """What would become of one LoRA.

    Attributes:
        name: the name of the LoRA.
        facts: what its header says.
        decision: what becomes of it.
        short, reason: why it cannot be transferred as things are, in a word or two and in sentences; "" where it can.
        lacks_source: whether that is because the checkpoint that it was trained on is not installed or not named.
    """

    name: str
    facts: AdapterFacts
    decision: Decision
    short: str = ""
    reason: str = ""
    lacks_source: bool = False

    @property
    def on_target(self) -> bool:
        """Whether it was trained on the target itself."""
        return isinstance(self.decision, LeftOut) and self.decision.why == "trained on the target"

    @property
    def item(self) -> Convert | None:
        """The LoRA as it would be converted; None where it would not be."""
        return self.decision if isinstance(self.decision, Convert) and not self.reason else None


def outlook(
    adapters: Mapping[str, Path], target: Checkpoint, settings: TransferSettings, library: Library
) -> list[Prospect]:
    """What would become of each of ``adapters``, by name. Reads headers, and hashes nothing if ``library`` has no outputs.

    Raises:
        RequestError: the target is no checkpoint that can be used.
    """
    library.architecture(target, "The target")
    return [_prospect(Found(name, path), target, settings, library) for name, path in adapters.items()]


def takes(
    prospects: Sequence[Prospect],
    target: Checkpoint,
    settings: TransferSettings,
    run: Runtime,
    run_seconds: float | None = None,
) -> Estimate:
    """The time and disk space that the transfer of those takes that can be transferred.

    Args:
        prospects: what would become of each.
        target: the checkpoint that they go to.
        settings: how they are transferred.
        run: how it is computed.
        run_seconds: how long a run of a model takes, where the method runs models and that is known.

    Raises:
        TransferError: the target cannot be read.
    """
    items = tuple(prospect.item for prospect in prospects if prospect.item is not None)
    plan = BatchPlan(target, settings, {}, items, {}, frozenset(), 0)
    # One after another, each with all threads.
    tasks = [Task((item,), run) for item in items]
    speed = remembered() if tasks and not settings.how.runs_models else None
    return estimate(plan, tasks, Costs(plan), run, workers=1, speed=speed, run_seconds=run_seconds)


def _prospect(adapter: Found, target: Checkpoint, settings: TransferSettings, library: Library) -> Prospect:
    facts = library.adapter(adapter.path)
    decision = decide(adapter, target, settings, library)
    made = Prospect(adapter.name, facts, decision)
    if facts.problem:
        return Prospect(adapter.name, facts, decision, "no LoRA" if facts.foreign else "not readable", facts.problem)
    if not facts.architectures:
        return Prospect(adapter.name, facts, decision, "not known", facts.doubt or "What it is for is not known.")
    if not families(*facts.architectures):
        return Prospect(
            adapter.name, facts, decision, "not supported", f"It is for {facts.base}, which is not supported."
        )
    if isinstance(decision, Convert) or made.on_target:
        return made
    if settings.source is None and settings.how.needs_source:
        match = library.source(facts)
        if match.checkpoint is None:
            asks = f"It asks for {match.asks_for}, which is not installed." if match.asks_for else _NAMES_NONE
            reason = f"The source checkpoint was not found. {asks}"
            return Prospect(adapter.name, facts, decision, "not found", reason, lacks_source=True)
    return Prospect(
        adapter.name, facts, decision, "cannot be used", " ".join(filter(None, (decision.sentence, decision.hint)))
    )


_NAMES_NONE = "Its metadata does not say what it was trained on."
