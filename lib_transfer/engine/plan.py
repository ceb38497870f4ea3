"""The plan: which module of the target each group of the adapter goes to, or why it goes nowhere. Computes nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lib_transfer.architecture import identify_adapter
from lib_transfer.architecture.module import Module
from lib_transfer.engine.base import Base
from lib_transfer.engine.report import Decision
from lib_transfer.errors import MismatchError
from lib_transfer.formats.adapter import Adapter, Group
from lib_transfer.formats.algorithms.lora import BIASES
from lib_transfer.formats.unread import EMBEDDING, NOT_CARRIED, Unread


@dataclass(frozen=True)
class Obstacle:
    """Why a module cannot be transferred."""

    decision: Decision
    reason: str


@dataclass(frozen=True)
class Pair:
    """One group of the adapter, the module it was trained on and the module it goes to.

    Attributes:
        group: the group.
        source: its module in the source; in the target's own list when there is no source.
        target: the module it goes to; None where there is none.
        obstacle: what is in the way, if anything.
    """

    group: Group
    source: Module
    target: Module | None
    obstacle: Obstacle | None


@dataclass(frozen=True)
class Plan:
    """Every group of an adapter, paired or accounted for.

    Attributes:
        pairs: in the adapter's order.
        unread: tensors that no module was found for, with reasons.
    """

    pairs: tuple[Pair, ...]
    unread: tuple[Unread, ...]


def plan(adapter: Adapter, source: Base | None, target: Base) -> Plan:
    """Bind the adapter's groups to modules of the source, and pair these with modules of the target.

    Args:
        adapter: as read.
        source: the base it was trained on; None where the method does without, then the target's names are used.
        target: the base it goes to.

    Raises:
        MismatchError: the adapter does not belong to the source, or the two bases are of different architectures.
    """
    origin = source or target
    if origin.architecture is not target.architecture:
        raise MismatchError(
            f"The source {origin.path.name} is {origin.architecture.title} and the target {target.path.name} is "
            f"{target.architecture.title}: their weights do not correspond.",
            hint="Choose two checkpoints of one architecture.",
        )
    pairs: list[Pair] = []
    unknown: list[Group] = []
    taken: set[str] = set()
    for group in adapter.groups.values():
        module = origin.by_adapter_name.get(group.name)
        if module is None:
            unknown.append(group)
        else:
            pairs.append(_pair(group, module, target, taken))
            taken.add(module.name)
    # Architectures share names (the first encoder, many blocks): those of a wrong one must not come through in part.
    if not pairs or origin.architecture not in identify_adapter(list(adapter.groups)):
        raise MismatchError(_belongs_elsewhere(adapter, origin, len(pairs)))
    reason = f"No module of {origin.path.name} goes by this name."
    strangers = [Unread(g.name, tuple(g.keys.values()), "no module", reason) for g in unknown]
    beside = [
        Unread(g.name, keys, "extra", "A1111 does not read a bias difference beside a LoRA.")
        for g in (pair.group for pair in pairs)
        if g.algorithm.id == "lora" and (keys := tuple(g.keys[suffix] for suffix in BIASES if suffix in g.keys))
    ]
    bundled = [
        Unread(EMBEDDING + name, tuple(f"{EMBEDDING}{name}.{s}" for s in suffixes), "embedding", NOT_CARRIED)
        for name, suffixes in adapter.embeddings.items()
    ]
    return Plan(tuple(pairs), (*adapter.unsupported, *strangers, *beside, *bundled))


def _pair(group: Group, module: Module, target: Base, taken: Collection[str]) -> Pair:
    counterpart = target.by_name.get(module.name)
    obstacle = None
    if counterpart is None:
        obstacle = Obstacle("no counterpart", "the target has no such module")
    elif counterpart.output_name is None:
        obstacle = Obstacle("unsupported", "A1111 or Forge does not load a LoRA on this module")
    elif counterpart.name in taken:
        obstacle = Obstacle("unsupported", "another group of the adapter already changes this module")
    return Pair(group, module, counterpart, obstacle)


def _belongs_elsewhere(adapter: Adapter, origin: Base, known: int) -> str:
    if not adapter.groups:
        first = adapter.unsupported[0]
        return f"Nothing of the adapter can be used. {first.name}: {first.reason}"
    found = identify_adapter(list(adapter.groups))
    what = " or ".join(a.title for a in found) if found else "another kind of model"
    share = (
        f"only {known} of the adapter's {len(adapter.groups)} modules are"
        if known
        else "none of the adapter's modules is"
    )
    return f"The adapter is for {what}, but {origin.path.name} is {origin.architecture.title}: {share} in it."
