"""The plan: which module of the target each group of the adapter goes to, or why it goes nowhere. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lib_transfer.architecture.identity import Identity
from lib_transfer.architecture.module import Binding, Module
from lib_transfer.conversion.pairing import Counterpart, How, Pairing
from lib_transfer.conversion.report import Decision
from lib_transfer.errors import MismatchError
from lib_transfer.formats.adapter import Adapter, Group
from lib_transfer.formats.algorithms.lora import BIASES
from lib_transfer.formats.unread import EMBEDDING, Unread
from lib_transfer.library.base import Base
from lib_transfer.library.inspection import identify

MOST_EMBEDDINGS = 12
"""Forge, which reads no bundled embeddings, leaves out a LoRA with more tensors than this that it does not know."""


@dataclass(frozen=True)
class Obstacle:
    """Why a module cannot be transferred."""

    decision: Decision
    reason: str


@dataclass(frozen=True)
class Pair:
    """One group of the adapter, or a share of it, the module it was trained on and the module it goes to.

    Attributes:
        group: the group.
        bound: all that the group changes: one module of the source (of the target when there is no source), or those
            that a fused weight is cut into.
        share: the number of the one that this pair is about.
        target: the module it goes to; None where there is none.
        how: how that is known.
        obstacle: what is in the way, if anything.
    """

    group: Group
    bound: tuple[Binding, ...]
    share: int
    target: Module | None
    how: How
    obstacle: Obstacle | None

    @property
    def source(self) -> Module:
        """The module it was trained on."""
        return self.bound[self.share].module

    @property
    def elsewhere(self) -> str:
        """The name it is written under, where that is a module of another name; else empty."""
        there = self.target is not None and self.target.name != self.source.name
        return (there and self.target and self.target.output_name) or ""

    @property
    def name(self) -> str:
        """For people: the group's name, and what of it is meant where that is only a share."""
        whole = self.bound[self.share].rows is None
        return self.group.name if whole else f"{self.group.name} [{self.source.name.rpartition('.')[2]}]"


@dataclass(frozen=True)
class Plan:
    """Every group of an adapter, paired or accounted for.

    Attributes:
        pairs: the pairs in the order of the adapter.
        unread: tensors that no module was found for, with reasons.
        embeddings: bundled textual-inversion embeddings that are carried as they are.
    """

    pairs: tuple[Pair, ...]
    unread: tuple[Unread, ...]
    embeddings: Mapping[str, Mapping[str, Tensor]]


def plan(adapter: Adapter, origin: Base, target: Base, find: Pairing, reads_alike: Callable[[], bool]) -> Plan:
    """Bind the adapter's groups to modules of the origin, and pair these with modules of the target.

    Args:
        adapter: the adapter as read.
        origin: the base it was trained on; the target where the method does without, then the target's names are used.
        target: the base it goes to.
        find: what each module of the origin corresponds to in the target.
        reads_alike: whether both bases have the same text encoders; asked only where the adapter bundles embeddings.

    Raises:
        MismatchError: the adapter does not belong to the origin, or nothing of it corresponds to anything in the target.
    """
    pairs: list[Pair] = []
    unknown: list[Group] = []
    taken: set[str] = set()
    for group in adapter.groups.values():
        bound = origin.by_adapter_name.get(group.name)
        if bound is None:
            unknown.append(group)
            continue
        for share, (module, _) in enumerate(bound):
            found = find(module)
            obstacle = _obstacle(found, target)
            if module.name in taken:
                obstacle = Obstacle("unsupported", "another group of the adapter already changes this module")
            pairs.append(Pair(group, bound, share, found.module, found.how, obstacle))
        taken.update(module.name for module, _ in bound)
    # Architectures share names (the first encoder, many blocks): those of a wrong one must not come through in part.
    made_for = identify(adapter)
    if not pairs or made_for.unsupported or origin.architecture.family not in {a.family for a in made_for.fitting}:
        raise MismatchError(_belongs_elsewhere(adapter, made_for, origin, len(pairs)))
    if origin.architecture.family != target.architecture.family and all(pair.target is None for pair in pairs):
        raise MismatchError(
            f"The source {origin.path.name} is {origin.architecture.title} and the target {target.path.name} is "
            f"{target.architecture.title}: their weights do not correspond.",
            hint="Choose two checkpoints of one architecture.",
        )
    reason = f"No module of {origin.path.name} goes by this name."
    strangers = [Unread(g.name, tuple(g.keys.values()), "no module", reason) for g in unknown]
    beside = [
        Unread(g.name, keys, "extra", "A1111 does not read a bias difference beside a LoRA.")
        for g in {pair.group.name: pair.group for pair in pairs}.values()
        if g.algorithm.id == "lora" and (keys := tuple(g.keys[suffix] for suffix in BIASES if suffix in g.keys))
    ]
    embeddings, left = _embeddings(adapter, reads_alike)
    return Plan(tuple(pairs), (*adapter.unsupported, *strangers, *beside, *left), embeddings)


def _embeddings(
    adapter: Adapter, reads_alike: Callable[[], bool]
) -> tuple[Mapping[str, Mapping[str, Tensor]], tuple[Unread, ...]]:
    """The bundled embeddings that are carried, and those that are not."""
    bundled = adapter.embeddings
    if not bundled:
        return {}, ()
    if sum(map(len, bundled.values())) > MOST_EMBEDDINGS:
        reason = f"More than {MOST_EMBEDDINGS} bundled embeddings would keep Forge from loading the LoRA at all."
    elif reads_alike():
        return bundled, ()
    else:
        reason = (
            "A bundled textual-inversion embedding belongs to the text encoder, which is another one in the target."
        )
    return {}, tuple(
        Unread(EMBEDDING + name, tuple(f"{EMBEDDING}{name}.{suffix}" for suffix in suffixes), "embedding", reason)
        for name, suffixes in bundled.items()
    )


def _obstacle(found: Counterpart, target: Base) -> Obstacle | None:
    """What is in the way of writing the counterpart's change."""
    if found.module is None:
        return Obstacle("no counterpart", found.reason)
    if found.module.output is None:
        return Obstacle("unsupported", f"{target.architecture.hosts} does not load a LoRA on this module")
    return None


def _belongs_elsewhere(adapter: Adapter, found: Identity, origin: Base, known: int) -> str:
    if not adapter.groups:
        first = adapter.unsupported[0]
        return f"Nothing of the adapter can be used. {first.name}: {first.reason}"
    if found.unsupported:
        return (
            f"The adapter is for {found.unsupported}, which is not supported; {origin.path.name} is "
            f"{origin.architecture.title}."
        )
    if not found.fitting:
        return found.doubt
    what = " or ".join(a.title for a in found.fitting)
    share = (
        f"only {known} of the adapter's {len(adapter.groups)} modules are"
        if known
        else "none of the adapter's modules is"
    )
    return f"The adapter is for {what}, but {origin.path.name} is {origin.architecture.title}: {share} in it."
