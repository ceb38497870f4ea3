"""Adapters of several algorithms for full-size models, with made-up numbers, in LyCORIS' tensors and sizes people use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.writer import write_adapter

RANK = 32
LOHA_RANK = 16
FACTOR = 8  # of LoKr, with both matrices whole
BLOCK = 64  # of OFT

Tensors = dict[str, Tensor]


def write(path: Path, kind: str, chosen: Iterable[Module], generator: torch.Generator) -> None:
    """An adapter of ``kind`` (a key of :data:`KINDS`) for these modules, in fp16."""
    tensors: Tensors = {}
    for module in chosen:
        if module.output_name is not None:
            tensors |= KINDS[kind](module.output_name, module, generator)
    write_adapter(path, tensors, {"ss_network_dim": str(RANK)}, overwrite=True)


def _lora(name: str, module: Module, generator: torch.Generator) -> Tensors:
    out, into = module.matrix_shape
    up, down = _random(generator, out, RANK), _random(generator, RANK, into)
    kernel = (module.shape[2], module.shape[3]) if module.kind == "convolution" else None
    return lora_tensors(name, up, down, kernel, torch.float16)


def _loha(name: str, module: Module, generator: torch.Generator) -> Tensors:
    out, into = module.matrix_shape
    sides = {"a": (out, LOHA_RANK), "b": (LOHA_RANK, into)}
    factors = {
        f"{name}.hada_w{half}_{side}": (10 * _random(generator, *shape)).half()
        for half in "12"
        for side, shape in sides.items()
    }
    return {**factors, f"{name}.alpha": torch.tensor(float(LOHA_RANK)).half()}


def _lokr(name: str, module: Module, generator: torch.Generator) -> Tensors:
    out, into, *kernel = module.shape
    rows, columns = math.gcd(out, FACTOR), math.gcd(into, FACTOR)
    second = _random(generator, out // rows, into // columns, *kernel)
    return {f"{name}.lokr_w1": _random(generator, rows, columns).half(), f"{name}.lokr_w2": second.half()}


def _oft(name: str, module: Module, generator: torch.Generator) -> Tensors:
    size = math.gcd(module.shape[0], BLOCK)
    return {f"{name}.oft_blocks": _random(generator, module.shape[0] // size, size, size).half()}


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator) * 0.01


KINDS: dict[str, Callable[[str, Module, torch.Generator], Tensors]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "oft": _oft,
}
