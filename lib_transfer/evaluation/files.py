"""Adapters as files: read as updates of a base that is run, and written like every other output."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion import output
from lib_transfer.conversion.carry import update_of
from lib_transfer.conversion.pair import whole_shape
from lib_transfer.conversion.weights import Weight
from lib_transfer.errors import MismatchError, UnsupportedError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.publish import sweep
from lib_transfer.formats.writer import Written, write_adapter
from lib_transfer.library.base import Base
from lib_transfer.library.request import TransferRequest
from lib_transfer.update import Update, Updates


def updates_of(adapter: Adapter, base: Base) -> dict[str, Update]:
    """The updates of an adapter, by canonical name of the module.

    What the base has no module for plays no part. Nor does a module whose output the model never reads, which programs
    may not even build; nor do bundled embeddings, which no prompt of ours names; nor the change of a bias that is not there.

    Args:
        adapter: the adapter, whose file is still open.
        base: the checkpoint that it is for.

    Raises:
        MismatchError: nothing of the adapter is in the base.
        NumericError: a number does not fit in float32, or a weight that an update is made from holds NaN or infinity.
    """

    def weight(module: Module) -> Tensor:
        found = Weight(base.checkpoint, base.identity(module), module, torch.device("cpu"))
        return found.sound().reshape(module.shape)

    updates: dict[str, Update] = {}
    for name, group in adapter.groups.items():
        bound = base.by_adapter_name.get(name, ())
        if not bound or group.misfit(whole_shape(bound)) is not None:
            continue
        whole = update_of(group, bound, weight)
        if whole.changes_weight and whole.bias is not None and len(whole.bias) != whole_shape(bound)[0]:
            whole = dataclasses.replace(whole, bias=None)
        for module, rows in bound:
            update = whole.rows(rows)
            idle = (module.position.part, module.position.block) in base.architecture.idle
            if module.name in updates or idle or not update.fits(module.shape):
                continue
            if module.bias is not None:
                updates[module.name] = update
            elif update.changes_weight:
                updates[module.name] = dataclasses.replace(update, bias=None)
    if not updates:
        raise MismatchError(
            f"Nothing of the adapter fits {base.path.name}.", hint="It was made for another kind of model."
        )
    return updates


def reused(updates: Updates, origin: Base, target: Base) -> dict[str, Update]:
    """Those of the updates whose modules are in the target too, in the same shape; may be none.

    Diffusion models of different architectures share some names and shapes (Stable Diffusion 1 and XL 124 of them), which
    mean nothing: between those, no module of the diffusion model is kept.

    Args:
        updates: the adapter, by modules of ``origin``.
        origin: the base that the adapter is for.
        target: the base that it is put on as it is.
    """
    there = {name: module.shape for name, module in target.by_name.items()}
    if origin.architecture.family != target.architecture.family:
        core = origin.architecture.core.part
        updates = {name: it for name, it in updates.items() if origin.by_name[name].position.part != core}
    return {name: update for name, update in updates.items() if there.get(name) == origin.by_name[name].shape}


def write(
    updates: Updates,
    request: TransferRequest,
    parent: Mapping[str, str],
    target: Base,
    report: Mapping[str, Any],
    path: Path,
    dtype: torch.dtype,
    *,
    overwrite: bool = False,
) -> Written:
    """Write ``updates`` as a LoRA for ``target``, in the names that the hosts load.

    Args:
        updates: the adapter, by canonical name of the target's module.
        request: the request that it is the result of.
        parent: the metadata of the adapter that it stems from.
        target: the base that it is for.
        report: what was measured, for the metadata.
        path: the file that is written.
        dtype: the number format of the tensors.
        overwrite: whether a file that is there is replaced.

    Raises:
        UnsupportedError: no module can be written.
        StorageError, OutputExistsError: as :func:`write_adapter` says.
    """
    modules = {name: target.by_name[name] for name in updates if _has_own_name(target.by_name[name])}
    if not modules:
        raise UnsupportedError(f"{target.architecture.hosts} loads a LoRA on none of the changed modules.")
    tensors: dict[str, Tensor] = {}
    ranks: list[tuple[Module, int]] = []
    for name, module in modules.items():
        update = _writable(updates[name])
        tensors |= output.tensors_of(module, update, dtype)
        if update.factors is not None:
            ranks.append((module, update.factors.rank))
    tensors |= output.missing_partners(modules.values(), target, dtype)
    metadata = output.metadata(request, parent, ranks, target, json.dumps(report, sort_keys=True), path.stem)
    sweep(path.parent)
    return write_adapter(path, tensors, metadata, overwrite=overwrite)


def _has_own_name(module: Module) -> bool:
    """Whether the hosts load an update of it under a name of its own."""
    return module.output is not None and module.output.rows is None


def _writable(update: Update) -> Update:
    update = update.to("cpu", torch.float32)
    return update if update.factors is None else update.recompressed()
