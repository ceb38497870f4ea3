"""An adapter that was made by running models, as a file like every other output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion import output
from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.publish import sweep
from lib_transfer.formats.writer import Written, write_adapter
from lib_transfer.library.base import Base
from lib_transfer.library.request import TransferRequest
from lib_transfer.update import Update, Updates


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
        request: what it is the result of.
        parent: the metadata of the adapter that it stems from.
        target: the base that it is for.
        report: what was measured, for the metadata.
        path: the file.
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
