"""An adapter that was made by running models, as a file like every other output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.output import base_facts, missing_partners, tensors_of
from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.metadata import ParentFacts, derived_metadata
from lib_transfer.formats.publish import sweep
from lib_transfer.formats.update import Dense, Norm
from lib_transfer.formats.writer import Written, write_adapter
from lib_transfer.library.base import Base
from lib_transfer.library.request import TransferRequest
from lib_transfer.linalg.factors import Factors, balanced
from lib_transfer.models.apply import Change, Changes
from lib_transfer.version import VERSION


def write(
    changes: Changes,
    request: TransferRequest,
    parent: Mapping[str, str],
    target: Base,
    report: Mapping[str, Any],
    path: Path,
    dtype: torch.dtype,
    *,
    overwrite: bool = False,
) -> Written:
    """Write ``changes`` as a LoRA for ``target``, in the names that the hosts load.

    Args:
        changes: by canonical name of the target's module.
        request: what it is the result of.
        parent: metadata of the adapter that it stems from.
        target: the base.
        report: what was measured, for the metadata.
        path: the file.
        dtype: of the tensors.
        overwrite: whether a file that is there is replaced.

    Raises:
        UnsupportedError: no module can be written.
        StorageError, OutputExistsError: as :func:`write_adapter` says.
    """
    modules = [target.by_name[name] for name in changes if _is_whole(target.by_name[name])]
    if not modules:
        raise UnsupportedError(f"{target.architecture.hosts} loads a LoRA on none of the changed modules.")
    tensors: dict[str, Tensor] = {}
    for module in modules:
        tensors |= tensors_of(module, _update(changes[module.name], module), dtype)
    tensors |= missing_partners(modules, target, dtype)
    linear = {rank for m in modules if m.kind == "linear" and (rank := _rank(changes[m.name])) is not None}
    convolution = {rank for m in modules if m.kind == "convolution" and (rank := _rank(changes[m.name])) is not None}
    metadata = derived_metadata(
        parent,
        stem=path.stem,
        base=base_facts(request, target),
        made_from=ParentFacts(request.adapter_name, request.adapter_sha256),
        ranks=sorted(linear),
        conv_ranks=sorted(convolution),
        request_json=request.to_json(),
        report_json=json.dumps(report, sort_keys=True),
        version=VERSION,
    )
    sweep(path.parent)
    return write_adapter(path, tensors, metadata, overwrite=overwrite)


def _is_whole(module: Module) -> bool:
    """Whether the hosts load an update of it under a name of its own."""
    return module.output is not None and module.output.rows is None


def _update(change: Change, module: Module) -> Factors | Dense | Norm:
    weight, bias = change.weight, change.bias
    if isinstance(weight, Factors):
        # A bias beside factors is read by no host.
        return balanced(Factors(weight.up.float().cpu(), weight.down.float().cpu()))
    plain, shift = (None if part is None else part.float().cpu() for part in (weight, bias))
    return Norm(plain, shift) if module.kind == "norm" else Dense(plain, shift)


def _rank(change: Change) -> int | None:
    return change.weight.rank if isinstance(change.weight, Factors) else None
