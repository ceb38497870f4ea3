"""Which module of the target each module of the source corresponds to, and how that is known.

- One architecture: the modules of one name.
- Relatives of different depth (pruned, distilled): whatever has its name in both stays; where a stage has other blocks than
  its counterpart, its blocks are aligned in order so that the similarity of their weights is largest.
- Relatives whose number of blocks is free: as :mod:`~lib_transfer.conversion.blocks` says.
- Other architectures: a text encoder that both have, where its weights are the same. Everything else has nothing to go by;
  it is paired by job and relative depth only when that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from lib_transfer.architecture.alignment import align, spread
from lib_transfer.architecture.module import Module
from lib_transfer.conversion.blocks import Blocks, number
from lib_transfer.conversion.sketches import Sketches, same_weights
from lib_transfer.library.base import Base

How = Literal["by name", "aligned", "by table", "same encoder", "forced"]


@dataclass(frozen=True)
class Counterpart:
    """What a module of the source corresponds to.

    Attributes:
        module: the module of the target; None where there is none.
        how: how that is known.
        reason: why there is none, else empty.
        copies: the same module of the blocks that were inserted as copies of this one's.
    """

    module: Module | None
    how: How = "by name"
    reason: str = ""
    copies: tuple[Module, ...] = ()


Pairing = Callable[[Module], Counterpart]

MISSING = "the target has no such module"
DEEPER = "the target has fewer such blocks, and this one is like none of them"


def pairing(
    source: Base, target: Base, sketches: Sketches, *, forced: bool = False, blocks: Blocks | None = None
) -> Pairing:
    """How the modules of ``source`` are found in ``target``.

    Args:
        source, target: the bases.
        sketches: tells how alike blocks are; asked only where blocks are to be aligned.
        forced: whether modules of unrelated architectures are paired by job and relative depth.
        blocks: where the blocks of the diffusion model go, where both have other numbers of them and that is known.
    """
    if source.architecture.family == target.architecture.family:
        find = _of_relatives(source, target, sketches, blocks)
        return find if blocks is None else with_copies(find, target, blocks)
    return _of_strangers(source, target, forced=forced)


def _of_relatives(source: Base, target: Base, sketches: Sketches, blocks: Blocks | None) -> Pairing:
    known = {} if blocks is None else _known_units(source, target, blocks)
    units = known | _aligned_units(source, target, sketches, {part for part, _ in known})
    parts = {layout.part for layout in target.architecture.layouts}
    inside = by_job(target)
    outside = _by_place(target.modules)

    def find(module: Module) -> Counterpart:
        unit = _unit(module)
        if module.position.part not in parts:
            return Counterpart(None, "by name", f"{target.architecture.title} has no such text encoder")
        if unit in units:
            counterpart = units[unit]
            if counterpart is None:
                return Counterpart(None, "aligned", DEEPER)
            how: How = "by name" if counterpart == unit else "aligned"
            found = inside.get((*counterpart, module.position.role))
            return Counterpart(found, how, "" if found else MISSING)
        found = target.by_name.get(module.name) or outside.get(_place(module))
        return Counterpart(found, "by name", "" if found else MISSING)

    return find


def with_copies(find: Pairing, target: Base, blocks: Blocks) -> Pairing:
    """The same pairing, each counterpart with the modules of the blocks that were inserted as copies of its block."""
    inside, names = by_job(target), unit_names(target)
    sources = {there: block for block, there in enumerate(blocks.to) if there is not None}

    def copies(module: Module) -> Iterator[Module]:
        part, _, role = job_of(module)
        if part == target.architecture.core.part and (block := sources.get(number(module))) is not None:
            for copy in blocks.copies[block]:
                found = inside.get((part, names[copy], role))
                if found is not None and found.output is not None and found.shape == module.shape:
                    yield found

    def extended(module: Module) -> Counterpart:
        found = find(module)
        return found if found.module is None else replace(found, copies=tuple(copies(found.module)))

    return extended


def unit_names(base: Base) -> dict[int, str]:
    """The paths of the blocks of the diffusion model by their numbers."""
    part = base.architecture.core.part
    return {number(m): m.position.unit for m in base.modules if m.position.part == part and m.position.unit}


def job_of(module: Module) -> tuple[str, str, str]:
    """Part, unit and role."""
    return *_unit(module), module.position.role


def by_job(base: Base) -> dict[tuple[str, str, str], Module]:
    """The modules within units by :func:`job_of`."""
    return {job_of(module): module for module in base.modules if module.position.unit}


def _known_units(source: Base, target: Base, blocks: Blocks) -> dict[tuple[str, str], tuple[str, str] | None]:
    """The target's unit for every block of the source's diffusion model."""
    part, theirs = target.architecture.core.part, unit_names(target)
    there = {block: None if to is None else (part, theirs[to]) for block, to in enumerate(blocks.to)}
    return {(part, unit): there[block] for block, unit in unit_names(source).items()}


def _unit(module: Module) -> tuple[str, str]:
    """Part and unit: two text encoders have layers of one name."""
    return module.position.part, module.position.unit


def _place(module: Module) -> tuple[str, str, str, str]:
    p = module.position
    return p.part, p.stage, p.unit, p.role


def _by_place(modules: Iterable[Module]) -> dict[tuple[str, str, str, str], Module]:
    """Modules outside of units by their place, where that is one module's only."""
    found: dict[tuple[str, str, str, str], list[Module]] = {}
    for module in modules:
        if not module.position.unit:
            found.setdefault(_place(module), []).append(module)
    return {place: same[0] for place, same in found.items() if len(same) == 1}


Unit = tuple[tuple[str, str], tuple[Module, ...]]


def _units(base: Base) -> dict[tuple[str, str, str], list[Unit]]:
    """The units of a base in forward order, by part, stage and kind (their path without numbers)."""
    members: dict[tuple[str, str], list[Module]] = {}
    for module in base.modules:
        if module.position.unit:
            members.setdefault(_unit(module), []).append(module)
    found: dict[tuple[str, str, str], list[Unit]] = {}
    for unit, modules in members.items():
        position = modules[0].position
        key = (position.part, position.stage, re.sub(r"\d+", "", position.unit))
        found.setdefault(key, []).append((unit, tuple(modules)))
    return found


def _aligned_units(
    source: Base, target: Base, sketches: Sketches, known: set[str]
) -> dict[tuple[str, str], tuple[str, str] | None]:
    """The target's unit for every unit of the source whose stage has other units than the target's, in parts not ``known``."""
    others = _units(target)
    found: dict[tuple[str, str], tuple[str, str] | None] = {}
    for key, units in _units(source).items():
        candidates = others.get(key, [])
        if key[0] in known or [unit for unit, _ in units] == [unit for unit, _ in candidates]:
            continue
        scores = sketches.scores([modules for _, modules in units], [modules for _, modules in candidates])
        for (unit, _), column in zip(units, align(scores), strict=True):
            found[unit] = None if column is None else candidates[column][0]
    return found


def _of_strangers(source: Base, target: Base, *, forced: bool) -> Pairing:
    shared = _shared_encoders(source, target)
    pairs = _by_depth(source, target) if forced else {}
    lacking = f"{source.architecture.title} and {target.architecture.title} have nothing in common to go by here"

    def find(module: Module) -> Counterpart:
        part = module.position.part
        if part in shared:
            return shared[part](module)
        if module.name in pairs:
            return Counterpart(pairs[module.name], "forced")
        return Counterpart(None, "forced" if forced else "by name", lacking)

    return find


def _shared_encoders(source: Base, target: Base) -> dict[str, Pairing]:
    """For each text encoder of the source that the target has too, how its modules are found there."""
    others = {layout.model: layout.part for layout in target.architecture.text_encoders}
    found = {}
    for layout in source.architecture.text_encoders:
        if (other := others.get(layout.model)) and any(m.position.part == other for m in target.modules):
            found[layout.part] = _of_encoder(source, target, layout.part, other)
    return found


def _of_encoder(source: Base, target: Base, part: str, other: str) -> Pairing:
    def job(module: Module) -> tuple[str, str]:
        return module.position.block, module.position.role

    theirs = {job(m): m for m in target.modules if m.position.part == other}
    pairs = [(m, theirs[job(m)]) for m in source.modules if m.position.part == part and job(m) in theirs]
    same = same_weights(source.checkpoint, target.checkpoint, pairs)
    idle = {block for in_part, block in target.architecture.idle if in_part == other}

    def find(module: Module) -> Counterpart:
        if not same:
            return Counterpart(None, "same encoder", "the target has this text encoder with other weights")
        if module.position.block in idle:
            reason = f"{target.architecture.title} reads an earlier layer of this encoder, so it would have no effect"
            return Counterpart(None, "same encoder", reason)
        found = theirs.get(job(module))
        return Counterpart(found, "same encoder", "" if found else MISSING)

    return find


def _by_depth(source: Base, target: Base) -> dict[str, Module]:
    """Modules of one part and job, paired at the same relative depth."""
    theirs = _jobs(target.modules)
    pairs: dict[str, Module] = {}
    for key, modules in _jobs(source.modules).items():
        candidates = theirs.get(key, [])
        if candidates:
            columns = spread(len(modules), len(candidates))
            pairs |= {m.name: candidates[c] for m, c in zip(modules, columns, strict=True) if c is not None}
    return pairs


def _jobs(modules: Iterable[Module]) -> dict[tuple[str, str, str], list[Module]]:
    found: dict[tuple[str, str, str], list[Module]] = {}
    for module in modules:
        found.setdefault((module.position.part, module.position.role, module.kind), []).append(module)
    return found
