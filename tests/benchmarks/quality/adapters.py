"""Adapters of the benchmark as files: transferred by the product, read onto a running base, written as kohya writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lib_transfer
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.writer import write_adapter
from lib_transfer.linalg.factors import Factors
from lib_transfer.update import Update, Updates
from tests.benchmarks.quality.family import Base

Changes = dict[str, Update]

REUSE, PROLORA, ROTATION = "reuse", "prolora, full rank", "rotation"

METHODS: Mapping[str, Mapping[str, Any]] = {
    # Every update as it is, in the block that is most alike by its weights; what reuse does by names does not look at these.
    REUSE: {"method": "rotation", "threshold": 1.0, "below": "copy"},
    PROLORA: {"method": "prolora", "rank": "full"},
    ROTATION: {"method": "rotation"},
}
"""What looks at weights alone, with the settings that differ from the defaults."""

INSERTED = ("empty", "copy", "share")
"""What inserted blocks of a deeper relative get."""


def transferred(adapter: Path, source: Path, target: Path, path: Path, **settings: Any) -> Path | None:
    """Transfer an adapter file; None where nothing could be carried. An output that is there is kept.

    Args:
        adapter: the file.
        source, target: checkpoints.
        path: of the output.
        settings: the method and its own.
    """
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=path.parent / "cache", workers=1)
    request = lib_transfer.request(adapter, source=source, target=target, runtime=runtime, **settings)
    return lib_transfer.transfer(request, lib_transfer.Destination(file=path, overwrite=True), runtime=runtime).path


def read(path: Path, base: Base) -> Changes:
    """What the LoRA file at ``path`` does to ``base``, by canonical name of the module."""
    named = {name.text: module for module, _ in base.found().values() for name in module.names}
    changes = {}
    with open_adapter(path) as adapter:
        for name, group in adapter.groups.items():
            changes[named[name].name] = dataclasses.replace(group.update(), bias=None)
    return changes


def randomised(changes: Updates, generator: torch.Generator) -> Changes:
    """Random factors in place of all: updates of the same rank and norm on the same modules."""
    made = {}
    for name, change in changes.items():
        assert change.factors is not None
        drawn = Update(factors=Factors(*(torch.randn(factor.shape, generator=generator) for factor in change.factors)))
        made[name] = drawn.scaled(change.norm() / drawn.norm())
    return made


def write(path: Path, changes: Updates, base: Base) -> None:
    """Write what :func:`read` reads."""
    found = base.found()
    tensors: dict[str, Tensor] = {}
    for name, change in changes.items():
        module, _ = found[name]
        assert change.factors is not None
        assert module.output_name is not None
        tensors |= lora_tensors(module.output_name, *change.factors, None, torch.float32)
    write_adapter(path, tensors, {"ss_network_module": "networks.lora"}, overwrite=True)
