"""Every way to make a better adapter, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Sequence

from lib_transfer.evaluation.improvements.distillation import Distillation
from lib_transfer.evaluation.improvements.improvement import GIVEN, Improvement
from lib_transfer.evaluation.improvements.pursuit import Pursuit
from lib_transfer.evaluation.improvements.reconstruction import RANK, Reconstruction


def improvements(rank: int = RANK) -> tuple[Improvement, ...]:
    """All improvements; one may begin with what another made before it.

    Args:
        rank: the rank of a reconstruction.
    """
    pursuit, reconstruction = Pursuit(), Reconstruction(rank)
    return (
        pursuit,
        reconstruction,
        Reconstruction(rank, on_top_of=pursuit.name),
        Distillation((pursuit.name, reconstruction.name), averaged=(pursuit.name,)),
    )


def possible(listed: Sequence[Improvement], *, given: bool, blocks: int) -> tuple[Improvement, ...]:
    """Those of ``listed`` that have something to begin with, and blocks to look at where they look at blocks.

    Args:
        listed: improvements, in order.
        given: whether there is an adapter to begin with.
        blocks: the number of the target's transformer blocks.
    """
    there, chosen = {GIVEN} if given else set(), []
    for each in listed:
        if (not each.starts or there.intersection(each.starts)) and (blocks or not each.needs_streams):
            chosen.append(each)
            there.add(each.name)
    return tuple(chosen)
