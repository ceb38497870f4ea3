"""What an adapter's file does to the modules of a base that is run."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.shares import update_of, whole_shape
from lib_transfer.conversion.weights import Weight
from lib_transfer.errors import MismatchError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.library.base import Base
from lib_transfer.update import Update, Updates


def changes_of(adapter: Adapter, base: Base) -> dict[str, Update]:
    """The updates of an adapter, by canonical name of the module.

    What the base has no module for plays no part. Nor does a module whose output the model never reads, which programs
    may not even build; nor do bundled embeddings, which no prompt of ours names; nor the change of a bias that is not there.

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

    changes: dict[str, Update] = {}
    for name, group in adapter.groups.items():
        bound = base.by_adapter_name.get(name, ())
        if not bound or group.misfit(whole_shape(bound)) is not None:
            continue
        whole = update_of(group, bound, weight)
        for module, rows in bound:
            update = whole.rows(rows)
            idle = (module.position.part, module.position.block) in base.architecture.idle
            if module.name in changes or idle or not update.fits(module.shape):
                continue
            if module.bias is not None:
                changes[module.name] = update
            elif update.changes_weight:
                changes[module.name] = dataclasses.replace(update, bias=None)
    if not changes:
        raise MismatchError(
            f"Nothing of the adapter fits {base.path.name}.", hint="It was made for another kind of model."
        )
    return changes


def copied(changes: Updates, origin: Base, target: Base) -> dict[str, Update]:
    """Those of the updates whose modules are in the target too, in the same shape; may be none.

    Args:
        changes: the adapter, by modules of ``origin``.
        origin: the base that the adapter is for.
        target: the base that it is put on as it is.
    """
    there = {name: module.shape for name, module in target.by_name.items()}
    return {name: update for name, update in changes.items() if there.get(name) == origin.by_name[name].shape}
