"""Whether an adapter belongs to a base at all, by the names and shapes of its modules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lib_transfer.architecture.identity import Identity
from lib_transfer.conversion.pair import Pair, Stranger, whole_shape
from lib_transfer.errors import MismatchError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.algorithms.algorithm import by
from lib_transfer.library.base import Base


def need_fit(
    pairs: Sequence[Pair], strangers: Sequence[Stranger], origin: Base, shapes: Mapping[str, tuple[int, int]]
) -> None:
    """Raise :class:`MismatchError` where most groups have another name or shape than any module of the origin.

    Modules and text encoders that the origin lacks say nothing of the adapter.
    """
    misfits = {s.group.name: "no module goes by this name" for s in strangers if s.position is None}
    bound = {pair.group.name: pair for pair in pairs}
    for name, pair in bound.items():
        shape = whole_shape(pair.bound)
        if name in shapes:
            own, there = shapes[name], (shape[0], math.prod(shape[1:]))
            reason = f"its shape is {by(own)}, and there it is {by(there)}" if own != there else None
        else:
            reason = pair.group.misfit(shape)
        if reason is not None:
            misfits[name] = reason
    groups = len(bound) + sum(s.position is None for s in strangers)
    if 2 * len(misfits) > groups:
        name, reason = next(iter(misfits.items()))
        raise MismatchError(
            f"The adapter does not fit {origin.path.name}, which is {origin.architecture.title}: {len(misfits)} of {groups} "
            f"modules have another name or shape there, for example {name}: {reason}.",
            hint="Choose a checkpoint of the kind that the adapter was trained on.",
        )


def belongs_elsewhere(adapter: Adapter, found: Identity, origin: Base, known: int) -> MismatchError:
    """That an adapter was made for something else; ``known`` of its modules have names of the origin."""
    here, all_of_it = f"{origin.path.name} is {origin.architecture.title}", len(adapter.groups)
    if found.unsupported:
        return MismatchError(f"The adapter is for {found.unsupported}, which is not supported; {here}.")
    if not found.fitting:
        return MismatchError(found.doubt)
    shared = (
        "none of the adapter's modules is in it"
        if not known
        else f"only {known} of the adapter's {all_of_it} modules are in it"
        if known < all_of_it
        else "the names of the adapter's modules are in it too, but their sizes are others"
    )
    what = " or ".join(a.title for a in found.fitting)
    return MismatchError(
        f"The adapter is for {what}, but {here}: {shared}.",
        hint="Choose a checkpoint of the kind that the adapter was trained on.",
    )
