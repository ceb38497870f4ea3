"""The plan: which module of the target each group of the adapter goes to, or why it goes nowhere. Computes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lib_transfer.architecture.architecture import deepest, full_index
from lib_transfer.architecture.layout import Layout
from lib_transfer.architecture.module import Binding, Module
from lib_transfer.conversion.blocks import Blocks, number
from lib_transfer.conversion.depth import by_the_table, need_depth
from lib_transfer.conversion.fit import belongs_elsewhere, need_fit
from lib_transfer.conversion.pair import Obstacle, Pair, Stranger
from lib_transfer.conversion.pairing import Counterpart, Pairing, by_job, unit_names, with_copies
from lib_transfer.conversion.partly_loaded import A1111_ALONE, MOST_UNKNOWN, TOO_MANY, as_a1111_names_it, bundled
from lib_transfer.conversion.unseen import lacking, need_encoder, no_encoder, relative_with, unseen
from lib_transfer.errors import MismatchError
from lib_transfer.formats.adapter import Adapter, Group
from lib_transfer.formats.matrix_shapes import matrix_shapes
from lib_transfer.formats.unread import Unread
from lib_transfer.library.base import Base
from lib_transfer.library.inspection import identify

NO_SUCH_BLOCK = "by the published table the target has no such block, or not with this module"


@dataclass(frozen=True)
class Plan:
    """Every group of an adapter, paired or accounted for.

    Attributes:
        pairs: the pairs in the order of the adapter.
        strangers: the groups that no module was found for.
        unread: tensors that no group was made of, with reasons, and embeddings that are not carried.
        embeddings: bundled textual-inversion embeddings that are carried as they are.
        notes: what a person should know of the adapter itself, as sentences.
    """

    pairs: tuple[Pair, ...]
    strangers: tuple[Stranger, ...]
    unread: tuple[Unread, ...]
    embeddings: Mapping[str, Mapping[str, Tensor]]
    notes: tuple[str, ...] = ()


def plan(
    adapter: Adapter,
    origin: Base,
    target: Base,
    find: Pairing,
    reads_alike: Callable[[], bool],
    *,
    weightless: bool = False,
    stays: bool = False,
    inserted: str = "empty",
) -> Plan:
    """Bind the adapter's groups to modules of the origin, and pair these with modules of the target.

    Args:
        adapter: the adapter as read.
        origin: the base it was trained on; the target where the method does without, then the target's names are used.
        target: the base it goes to.
        find: what each module of the origin corresponds to in the target.
        reads_alike: whether both bases have the same text encoders; asked only where the adapter bundles embeddings.
        weightless: whether the method looks at no weights, so that a text encoder in no file of the target's is no obstacle.
        stays: whether the adapter stays on the base that it was trained on.
        inserted: what blocks of the target get that were inserted as copies: ``empty``, ``copy`` or ``share``.

    Raises:
        MismatchError: the adapter does not belong to the origin, most of it does not fit there, or nothing of it
            corresponds to anything in the target.
    """
    pairs: list[Pair] = []
    strangers: list[Stranger] = []
    shapes = matrix_shapes(adapter)
    of_origin, of_target = lacking(origin), lacking(target)
    blocks, told = by_the_table(adapter, target, inserted) if weightless and not stays else (None, ())
    if not weightless:
        told = need_depth(adapter, origin)
    moved = _moved(adapter, target, blocks)
    unseen_here = of_origin if weightless else {}
    named = {
        name: _bound(group, moved.get(name), origin, unseen_here, shapes.get(name))
        for name, group in adapter.groups.items()
    }
    owners = _owners({name: bound for name, (bound, _) in named.items() if bound is not None})
    for group in adapter.groups.values():
        place, (bound, remark) = moved.get(group.name), named[group.name]
        if bound is None:
            strangers.append(
                _stranger(group, origin, of_origin, of_target, weightless=weightless)
                if place is None
                else _nowhere(group, target)
            )
            continue
        for share, (module, _) in enumerate(bound):
            found = place or (Counterpart(module) if remark else find(module))
            obstacle = _obstacle(found, target, _lacks(module, origin, target, of_target))
            if owners[module.name] != group.name:
                obstacle = Obstacle("unsupported", "another group of the adapter already changes this module")
            hosts = target.architecture.hosts
            pair = Pair(group, bound, share, found.module, found.how, obstacle, hosts, remark)
            pairs.append(_inserted(pair, found.copies, inserted))
    if not pairs and strangers and all(s.position is not None and s.position.part in of_origin for s in strangers):
        raise MismatchError(f"Nothing of the adapter can be carried: {strangers[0].reason}.")
    # Architectures share names (the first encoder, many blocks): those of a wrong one must not come through in part.
    made_for = identify(adapter)
    if not pairs or made_for.unsupported or origin.architecture.family not in {a.family for a in made_for.fitting}:
        raise belongs_elsewhere(adapter, made_for, origin, len({pair.group.name for pair in pairs}))
    if origin.architecture.family != target.architecture.family and all(pair.target is None for pair in pairs):
        encoder = next(filter(None, (_lacks(pair.source, origin, target, of_target) for pair in pairs)), "")
        raise MismatchError(
            f"The source {origin.path.name} is {origin.architecture.title} and the target {target.path.name} is "
            f"{target.architecture.title}: their weights do not correspond{encoder and f', and {encoder}'}.",
            hint="Choose two checkpoints of one architecture.",
        )
    need_fit(pairs, strangers, origin, shapes)
    embeddings, left = bundled(adapter, None if weightless and not stays else reads_alike)
    notes = (*adapter.header.notes, *filter(None, (made_for.doubt,)), *told)
    unread = (*adapter.unsupported, *left)
    return Plan(_with_norms(pairs, target, embeddings), tuple(strangers), unread, embeddings, notes)


def _moved(adapter: Adapter, target: Base, blocks: Blocks | None) -> dict[str, Counterpart]:
    """What the adapter's modules are in the target, whose blocks it does not number as the target does: those in blocks."""
    if blocks is None:
        return {}
    names, part = full_index(deepest(target.architecture)), target.architecture.core.part
    inside, units = by_job(target), unit_names(target)
    find = with_copies(lambda module: Counterpart(module, "by table"), target, blocks)
    found = {}
    for name in adapter.groups:
        modules = [module for module, _ in names.get(name, ()) if module.position.part == part and number(module) >= 0]
        if len(modules) == 1 and number(modules[0]) < len(blocks.to):
            there = blocks.to[number(modules[0])]
            module = None if there is None else inside.get((part, units[there], modules[0].position.role))
            found[name] = Counterpart(None, "by table") if module is None else find(module)
    return found


def _bound(
    group: Group, place: Counterpart | None, origin: Base, unseen: Mapping[str, Layout], shape: tuple[int, int] | None
) -> tuple[tuple[Binding, ...] | None, str]:
    """What a group changes, None where that is nothing of the origin; and a remark where it is in no file of it.

    Args:
        group: the group.
        place: what its module is in the target, where the group's name does not say it.
        origin: the base that it is of.
        unseen: text encoders that the origin lacks, where no weight of them is needed.
        shape: ``(out, in)`` of the group's update, where the header tells it.
    """
    if place is not None:
        return (None if place.module is None else (Binding(place.module, None),)), ""
    bound = origin.by_adapter_name.get(group.name)
    if bound is None and (made := _unseen(group, origin, unseen, shape)):
        return (made,), f"unseen: {no_encoder(origin, unseen[made.module.position.part])}"
    return bound, ""


def _inserted(pair: Pair, copies: tuple[Module, ...], inserted: str) -> Pair:
    """The pair, with what the blocks get that were inserted as copies of its target's."""
    if not copies or inserted == "empty":
        return pair
    return dataclasses.replace(pair, copies=copies, factor=1 / (1 + len(copies)) if inserted == "share" else 1.0)


def _owners(named: Mapping[str, tuple[Binding, ...]]) -> dict[str, str]:
    """The group that each module is changed by, where several name it: of those the one that changes the most modules.

    SimpleTuner writes queries, keys and values as one, and groups of each that change nothing beside it.

    Args:
        named: the modules that each group names.
    """
    owners: dict[str, str] = {}
    for name, bound in sorted(named.items(), key=lambda it: -len(it[1])):
        for module, _ in bound:
            owners.setdefault(module.name, name)
    return owners


def _with_norms(
    pairs: Sequence[Pair], target: Base, embeddings: Mapping[str, Mapping[str, Tensor]]
) -> tuple[Pair, ...]:
    """The pairs, those of norms that A1111 alone loads with a name to write, where Forge bears with all of them."""
    norms = [as_a1111_names_it(pair.target, target) if pair.target is not None else None for pair in pairs]
    tensors = sum(1 if norm.bias is None else 2 for norm in norms if norm is not None)
    if not tensors:
        return tuple(pairs)
    bears = tensors + sum(map(len, embeddings.values())) <= MOST_UNKNOWN
    return tuple(
        pair
        if norm is None or (pair.obstacle is not None and pair.obstacle.reason != _not_loaded(target))
        else dataclasses.replace(
            pair, target=norm, obstacle=None, remark=", ".join(filter(None, (A1111_ALONE, pair.remark)))
        )
        if bears
        else dataclasses.replace(pair, obstacle=Obstacle("unsupported", TOO_MANY))
        for pair, norm in zip(pairs, norms, strict=True)
    )


def _not_loaded(target: Base) -> str:
    first, _, second = target.architecture.hosts.partition(" or ")
    if second == "ComfyUI":  # It has names for everything, and not always those of the other.
        return f"no name of it is loaded by both {first} and {second}"
    return f"neither {first} nor {second} loads a LoRA on it" if second else f"{first} does not load a LoRA on it"


def _unseen(group: Group, origin: Base, lacks: Mapping[str, Layout], shape: tuple[int, int] | None) -> Binding | None:
    """What a group changes in a text encoder that the origin lacks, where no weight is needed for it."""
    known = full_index(origin.architecture).get(group.name, ())
    if len(known) != 1 or known[0].module.position.part not in lacks or group.algorithm.needs_base:
        return None
    module = unseen(group, known[0].module, shape)
    return None if module is None else Binding(module, None)


def _stranger(
    group: Group, origin: Base, lacks: Mapping[str, Layout], of_target: Mapping[str, Layout], *, weightless: bool
) -> Stranger:
    relative = relative_with(origin, group.name)
    if relative is None:
        return Stranger(group, None, f"No module of {origin.path.name} goes by this name.")
    position = full_index(relative)[group.name][0].module.position
    if position.part in lacks:
        both = any(layout.model == lacks[position.part].model for layout in of_target.values())
        options = ["--target"] if weightless else ["--source", *(["--target"] if both else [])]
        return Stranger(group, position, need_encoder(origin, lacks[position.part], *options))
    return Stranger(group, position, f"{origin.path.name} lacks this module of {relative.title}")


def _nowhere(group: Group, target: Base) -> Stranger:
    """A group of a block that the target does not have, where a table says so."""
    return Stranger(group, full_index(deepest(target.architecture))[group.name][0].module.position, NO_SUCH_BLOCK)


def _lacks(module: Module, origin: Base, target: Base, lacks: Mapping[str, Layout]) -> str:
    """That the target holds no text encoder of the module's kind; empty where it does."""
    own = {layout.part: layout.model for layout in origin.architecture.text_encoders}.get(module.position.part)
    layout = next((layout for layout in lacks.values() if layout.model == own), None)
    there = any(other.model == own for other in target.architecture.text_encoders if other.part not in lacks)
    return "" if layout is None or there else need_encoder(target, layout, "--target")


def _obstacle(found: Counterpart, target: Base, lacks: str) -> Obstacle | None:
    """What is in the way of writing the counterpart's change; ``lacks`` says that the target's files lack all of its part."""
    if found.module is None:
        return Obstacle("no counterpart", lacks or found.reason)
    if found.module.output is None:
        return Obstacle("unsupported", _not_loaded(target))
    return None
