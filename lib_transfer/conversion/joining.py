"""Fused weights, the way out: what was carried module by module is joined to one update of the whole weight.

The parts lie one below the other, so their factors become one pair of the sum of their ranks, which is exact; it is then cut
to the rank that is asked for, and what the cut took is added to each part's report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module, Rows
from lib_transfer.conversion.carry import Carried, Settings
from lib_transfer.conversion.compact import LARGEST_RANK
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.conversion.shares import place, take
from lib_transfer.formats.update import Dense
from lib_transfer.library.base import Base
from lib_transfer.linalg import factors as linalg
from lib_transfer.linalg.factors import Factors


@dataclass(frozen=True)
class Joined:
    """One update of a fused weight.

    Attributes:
        update: of the whole weight.
        reports: of its parts, in the given order.
    """

    update: Factors | Dense
    reports: tuple[ModuleReport, ...]


def join(parts: Sequence[Carried], target: Base, settings: Settings) -> Joined:
    """The update of the fused weight that ``parts`` are of; where a part is missing, it stays as it is.

    Args:
        parts: what was carried for modules of one output name, each with an update.
        target: whose modules they are.
        settings: those that the parts were carried with. The rank ``same`` is the sum over the adapter's groups that the
            parts come from.
    """
    total = _rows(parts[0], target)
    if any(isinstance(part.update, Dense) for part in parts):
        return Joined(_whole(parts, total), tuple(part.report for part in parts))
    factors = _stacked(parts, total)
    cut = linalg.balanced(factors, _rank(parts, settings.rank))
    return Joined(cut, tuple(_measured(part, cut, settings.strength) for part in parts))


def _output(carried: Carried) -> tuple[Module, Rows]:
    module = carried.pair.target
    assert module is not None
    assert module.output is not None
    return module, module.output.rows or ((0, module.shape[0]),)


def _rows(part: Carried, target: Base) -> int:
    """Rows of the whole weight."""
    name = _output(part)[0].output_name
    return sum(module.shape[0] for module in target.modules if module.output_name == name)


def _stacked(parts: Sequence[Carried], total: int) -> Factors:
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    for part in parts:
        assert isinstance(part.update, Factors)
        up = torch.zeros(total, part.update.rank)
        place(up, _output(part)[1], part.update.up)
        ups.append(up)
        downs.append(part.update.down)
    return linalg.add(*(Factors(*pair) for pair in zip(ups, downs, strict=True)))


def _whole(parts: Sequence[Carried], total: int) -> Dense:
    """A full difference, because one of the parts is one."""
    shape = _output(parts[0])[0].shape
    weight, bias = torch.zeros(total, *shape[1:]), torch.zeros(total)
    biased = False
    for part in parts:
        rows = _output(part)[1]
        if isinstance(part.update, Factors):
            place(weight, rows, (part.update.up @ part.update.down).reshape(-1, *shape[1:]))
        elif isinstance(part.update, Dense):
            if part.update.weight is not None:
                place(weight, rows, part.update.weight.reshape(-1, *shape[1:]))
            if part.update.bias is not None:
                place(bias, rows, part.update.bias)
                biased = True
    return Dense(weight, bias if biased else None)


def _rank(parts: Sequence[Carried], rank: str | int) -> int | None:
    if rank != "same":
        return None if rank == "full" else int(rank)
    ranks: dict[str, int] = {}
    for part in parts:
        group = part.pair.group.name
        known = ranks.get(group, 0)
        # The parts of a group that was made with a rank share it; those of another kind have a rank each.
        ranks[group] = max(known, part.rank or 0) if part.ranked else min(known + (part.rank or 0), LARGEST_RANK)
    return sum(ranks.values())


def _measured(part: Carried, cut: Factors, strength: float) -> ModuleReport:
    """The part's report after the cut."""
    assert isinstance(part.update, Factors)
    got = Factors(take(cut.up, _output(part)[1]), cut.down)
    report, before = part.report, linalg.norm(part.update)
    kept = (linalg.norm(got) / before) ** 2 if before > 0 else 1.0
    change = report.change
    if change is not None and part.given is not None and report.norm_before and strength:
        change = linalg.distance(linalg.scale(got, 1 / strength), part.given) / report.norm_before
    return dataclasses.replace(
        report,
        rank_after=cut.rank,
        norm_after=linalg.norm(got),
        energy_kept=None if report.energy_kept is None else report.energy_kept * kept,
        change=change,
    )
