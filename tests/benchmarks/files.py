"""Full-size checkpoints with made-up weights whose spectra decay, and a LoRA for them. Made once, kept in a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lib_transfer.architecture import Architecture, architectures, modules, reference
from lib_transfer.architecture.module import Module
from lib_transfer.formats.serialise import serialise
from tests.benchmarks import adapters

DRIFT = 0.1


def architecture(name: str) -> Architecture:
    """The architecture of this id."""
    return next(a for a in architectures() if a.id == name)


def make(folder: Path, name: str, spectrum: str, every: int = 1, kind: str = "lora") -> tuple[Path, Path, Path]:
    """Source, target and adapter (of every so manieth module) for the architecture ``name``, made if they are not there.

    A LoRA covers attention, feed-forward and text encoders; the adapter of another kind all layers and convolutions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, target = (folder / f"{name}-{spectrum}-{what}.safetensors" for what in ("source", "target"))
    adapter = folder / f"{name}-{kind}-{every}.safetensors"
    shapes = reference(architecture(name))
    generator = torch.Generator().manual_seed(1)
    found = modules(architecture(name), shapes)
    chosen = covered(found) if kind == "lora" else [m for m in found if m.kind in ("linear", "convolution")]
    adapters.write(adapter, kind, chosen[::every], generator)
    if not (source.exists() and target.exists()):
        weights = dict(_weights(shapes, spectrum, generator))
        _write(source, weights)
        for weight in weights.values():
            noise = torch.randn(weight.shape, generator=generator) * weight.float().square().mean().sqrt()
            weight.copy_(weight.float() + DRIFT * noise)
        _write(target, weights)
    return source, target, adapter


def covered(found: tuple[Module, ...]) -> list[Module]:
    """All attention and feed-forward modules and the text encoders'."""
    roles = ("attn", "self_attn", "ff", "mlp")
    return [m for m in found if m.kind == "linear" and m.position.role.startswith(roles)]


def _weights(
    shapes: dict[str, tuple[int, ...]], spectrum: str, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Weights ``U diag(s) V^T`` in fp16; U and V are shuffled columns of one orthogonal matrix per size."""
    orthogonal: dict[tuple[int, int], Tensor] = {}

    def columns(rows: int, n: int) -> Tensor:
        if (rows, n) not in orthogonal:
            orthogonal[rows, n] = torch.linalg.qr(torch.randn(rows, n, generator=generator))[0]
        return orthogonal[rows, n][:, torch.randperm(n, generator=generator)]

    for key, shape in shapes.items():
        if len(shape) < 2:
            yield key, torch.randn(shape, generator=generator).half()
            continue
        out, into = shape[0], math.prod(shape[1:])
        n = min(out, into)
        place = torch.arange(n) / n
        spike = 0 if spectrum == "gentle" else 4  # "steep": the first few directions stand out
        values = torch.exp(-(2 if spectrum == "gentle" else 3) * place) * (1 + spike * torch.exp(-place * n / 4))
        weight = (columns(out, n) * values) @ columns(into, n).T
        yield key, (weight * (0.02 / weight.square().mean().sqrt())).reshape(shape).half()


def _write(path: Path, weights: dict[str, Tensor]) -> None:
    with path.open("wb") as file:
        for piece in serialise(weights, None).pieces():
            file.write(piece)
