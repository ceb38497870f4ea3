"""Fused weights, the way out: what was carried module by module is joined to one update of the whole weight.

The parts lie one below the other, so their factors become one pair of the sum of their ranks, which is exact; it is then cut
to the rank that is asked for, and what the cut took is added to each part's report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lib_transfer.architecture.module import Module, Rows
from lib_transfer.conversion.carry import ModuleResult, Settings
from lib_transfer.conversion.compact import LARGEST_RANK
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.library.base import Base
from lib_transfer.update import Update, joined


def join(parts: Sequence[ModuleResult], target: Base, settings: Settings) -> tuple[Update, list[ModuleReport]]:
    """The update of the fused weight that ``parts`` are of, and the report of each part after it.

    Where a part is missing, the weight stays as it is.

    Args:
        parts: what was carried for modules of one output name, each with an update.
        target: the base whose modules they are.
        settings: those that the parts were carried with. The rank ``same`` is the sum over the adapter's groups that the
            parts come from.
    """
    name = _target(parts[0]).output_name
    out = sum(module.shape[0] for module in target.modules if module.output_name == name)
    whole = joined([(_rows(part), _update(part)) for part in parts], out)
    if whole.factors is None:
        return whole, [part.report for part in parts]
    cut = whole.recompressed(_rank(parts, settings.rank))
    return cut, [_measured(part, cut, settings.strength) for part in parts]


def _target(part: ModuleResult) -> Module:
    assert part.pair.target is not None
    return part.pair.target


def _rows(part: ModuleResult) -> Rows:
    """The part's rows of the whole weight."""
    target = _target(part)
    return (target.output and target.output.rows) or ((0, target.shape[0]),)


def _update(part: ModuleResult) -> Update:
    assert part.update is not None
    return part.update


def _rank(parts: Sequence[ModuleResult], rank: str | int) -> int | None:
    """The rank of the whole weight's update; None for everything."""
    if rank != "same":
        return None if rank == "full" else int(rank)
    ranks: dict[str, int] = {}
    for part in parts:
        assert part.before is not None
        assert part.before.factors is not None
        own, known = part.before.factors.rank, ranks.get(part.pair.group.name, 0)
        # The parts of a group that was made with a rank share it; those of another kind have a rank each.
        made_with_rank = part.before.rank is not None
        ranks[part.pair.group.name] = max(known, own) if made_with_rank else min(known + own, LARGEST_RANK)
    return sum(ranks.values())


def _measured(part: ModuleResult, cut: Update, strength: float) -> ModuleReport:
    """The part's report after the cut."""
    got = cut.rows(_rows(part))
    report, before = part.report, _update(part).norm()
    kept = (got.norm() / before) ** 2 if before > 0 else 1.0
    change = report.change
    if change is not None and part.before is not None and report.norm_before and strength:
        unscaled = got.scaled(1 / strength).factors
        assert unscaled is not None
        change = part.before.distance(unscaled) / report.norm_before
    return dataclasses.replace(
        report,
        rank_after=cut.rank,
        norm_after=got.norm(),
        energy_kept=None if report.energy_kept is None else report.energy_kept * kept,
        change=change,
    )
