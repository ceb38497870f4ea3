"""What an adapter's file does to the modules of a base that is run."""

from __future__ import annotations

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.shares import share_of, whole_shape, whole_weight
from lib_transfer.conversion.weights import Weight
from lib_transfer.errors import MismatchError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.update import LowRank, Update
from lib_transfer.library.base import Base
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import Change


def changes_of(adapter: Adapter, base: Base) -> dict[str, Change]:
    """The changes of an adapter, by canonical name of the module.

    What the base has no module for plays no part. Nor does a module whose output the model never reads, which programs
    may not even build; nor do bundled embeddings, which no prompt of ours names.

    Args:
        adapter: as read; its file is still open.
        base: the checkpoint it is for.

    Raises:
        MismatchError: nothing of the adapter is in the base.
        NumericError: a number does not fit in float32, or a weight that an update is made from holds NaN or infinity.
    """

    def weight(module: Module) -> Tensor:
        found = Weight(base.checkpoint, base.identity(module), module, torch.device("cpu"))
        return found.sound().reshape(module.shape)

    changes: dict[str, Change] = {}
    for name, group in adapter.groups.items():
        bound = base.by_adapter_name.get(name, ())
        if not bound or group.misfit(whole_shape(bound)) is not None:
            continue
        update = group.update(whole_weight(bound, weight) if group.algorithm.needs_base else None)
        for module, rows in bound:
            share = share_of(update, rows)
            idle = (module.position.part, module.position.block) in base.architecture.idle
            if module.name not in changes and not idle and fits(share, module.shape):
                changes[module.name] = _change(share, module)
    if not changes:
        raise MismatchError(
            f"Nothing of the adapter fits {base.path.name}.", hint="It was made for another kind of model."
        )
    return changes


def copied(changes: dict[str, Change], origin: Base, target: Base) -> dict[str, Change]:
    """Plain reuse: those of the changes whose modules are in the target too, in the same shape; may be none.

    Args:
        changes: by modules of ``origin``.
        origin: the base that they are for.
        target: the base that they are put on.
    """
    there = {name: module.shape for name, module in target.by_name.items()}
    return {name: change for name, change in changes.items() if there.get(name) == origin.by_name[name].shape}


def fits(update: Update, shape: tuple[int, ...]) -> bool:
    """Whether an update can be put on a weight of this shape."""
    size = torch.Size(shape).numel()
    if isinstance(update, LowRank):
        return update.up.shape[0] == shape[0] and update.down.shape[1] * shape[0] == size
    weight, bias = update.weight, update.bias
    fits_weight = weight is None or (weight.shape[0] == shape[0] and weight.numel() == size)
    return fits_weight and (bias is None or bias.shape[0] == shape[0])


def _change(update: Update, module: Module) -> Change:
    if isinstance(update, LowRank):
        weight: Factors | Tensor | None = Factors(update.up, update.down)
        bias = update.extra.bias if update.extra is not None else None
    else:
        weight, bias = update.weight, update.bias
    return Change(weight, bias if module.bias is not None else None)
