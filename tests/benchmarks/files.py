"""Full-size checkpoints, or some blocks of them, with made-up weights whose spectra decay, and a LoRA for them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from lib_transfer.architecture import Architecture, architectures, modules, reference
from lib_transfer.architecture.module import Module
from tests.benchmarks import adapters

DRIFT = 0.1


def _decaying(rate: float, standing_out: float, n: int) -> Tensor:
    place = torch.arange(n) / n
    return torch.exp(-rate * place) * (1 + standing_out * torch.exp(-place * n / 4))


def _trained(n: int, longer: int) -> Tensor:
    """The shape of trained layers: a bulk as random numbers have it, and a power law of a few directions above it.

    Martin and Mahoney 2021, "Implicit self-regularization in deep neural networks", JMLR 22(165), arXiv 1810.01075: the
    bulk is that of Marchenko and Pastur 1967, and in well-trained layers there is a heavy tail above its edge; its density
    ``rho(lambda) ~ lambda^-a`` has exponents ``a`` of 2 to 4. Here ``a`` is 3, which makes the ``i``-th largest eigenvalue
    fall as ``i^(-1 / (a - 1))``, for a twentieth of the directions.
    """
    edges = [1 - math.sqrt(n / longer), 1 + math.sqrt(n / longer)]
    squares = torch.linspace(edges[0] ** 2, edges[1] ** 2, 20001, dtype=torch.float64)[1:-1]
    density = ((squares - edges[0] ** 2) * (edges[1] ** 2 - squares)).sqrt() / squares
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    held = density.cumsum(0) / density.sum()
    bulk = squares[torch.searchsorted(held, 1 - place).clamp_max(len(squares) - 1)]
    tail = max(1, n // 20)
    order = torch.arange(1, tail + 1, dtype=torch.float64)
    bulk[:tail] = torch.maximum(bulk[:tail], edges[1] ** 2 * (order / tail) ** -0.5)
    return bulk.sqrt().float()


SPECTRA: dict[str, Callable[[int, int], Tensor]] = {
    "gentle": lambda n, longer: _decaying(2, 0, n),
    "steep": lambda n, longer: _decaying(3, 4, n),
    "trained": _trained,
}
"""The singular values of weights by what is said of them, from the number of them and the longer side."""

BLOCK = re.compile(r"(?<!llm_adapter\.)\b(?:\w+_)?blocks\.(\d+)\.")
"""The number of a transformer's block in a key; those of Anima's adapter are no blocks of it."""

ROLES = (
    "attn",
    "self_attn",
    "cross_attn",
    "img_attn",
    "txt_attn",
    "ff",
    "mlp",
    "img_mlp",
    "txt_mlp",
    "linear1",
    "linear2",
)
"""What the jobs of attention and feed-forward begin with."""


def architecture(name: str) -> Architecture:
    """The architecture of this id."""
    return next(a for a in architectures() if a.id == name)


def shapes(name: str, blocks: int | None = None) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint: of a UNet all, of a transformer those of the single file without text encoders.

    Args:
        name: the id of the architecture.
        blocks: how many blocks of each kind a transformer has; None for all.
    """
    whole = reference(architecture(name))
    if architecture(name).core.part == "unet":
        return whole
    numbers = {key: BLOCK.search(key) for key in whole if not key.startswith("text_encoders.")}
    return {
        key: whole[key] for key, found in numbers.items() if found is None or blocks is None or int(found[1]) < blocks
    }


def make(
    folder: Path, name: str, spectrum: str, every: int = 1, kind: str = "lora", blocks: int | None = None
) -> tuple[Path, Path, Path]:
    """Source, target and adapter (of every so manieth module) for the architecture ``name``, made if they are not there.

    A LoRA covers attention, feed-forward and the text encoders of a UNet; the adapter of another kind all layers and
    convolutions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = name if blocks is None else f"{name}-{blocks}"
    source, target = (folder / f"{stem}-{spectrum}-{what}.safetensors" for what in ("source", "target"))
    adapter = folder / f"{stem}-{kind}-{every}.safetensors"
    tensors = shapes(name, blocks)
    generator = torch.Generator().manual_seed(1)
    found = modules(architecture(name), tensors)
    chosen = covered(found) if kind == "lora" else [m for m in found if m.kind in ("linear", "convolution")]
    adapters.write(adapter, kind, chosen[::every], generator)
    if not (source.exists() and target.exists()):
        _write((source, target), tensors, _pairs(tensors, spectrum, generator))
    return source, target, adapter


def covered(found: tuple[Module, ...]) -> list[Module]:
    """All attention and feed-forward modules, and the text encoders' of a UNet."""
    whole = any(m.position.part == "unet" for m in found)
    inside = [m for m in found if whole or m.position.part == "transformer"]
    return [m for m in inside if m.kind == "linear" and m.position.role.startswith(ROLES)]


def _pairs(
    tensors: dict[str, tuple[int, ...]], spectrum: str, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each weight of the source and of the target, one pair at a time."""
    for weight in _weights(tensors, spectrum, generator):
        noise = torch.randn(weight.shape, generator=generator) * weight.float().square().mean().sqrt()
        yield weight, (weight.float() + DRIFT * noise).half()


def _weights(shapes: dict[str, tuple[int, ...]], spectrum: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Weights ``U diag(s) V^T`` in fp16; U and V are shuffled columns of one orthogonal matrix per size."""
    orthogonal: dict[tuple[int, int], Tensor] = {}

    def columns(rows: int, n: int) -> Tensor:
        if (rows, n) not in orthogonal:
            orthogonal[rows, n] = torch.linalg.qr(torch.randn(rows, n, generator=generator))[0]
        return orthogonal[rows, n][:, torch.randperm(n, generator=generator)]

    for shape in shapes.values():
        if len(shape) < 2:
            yield torch.randn(shape, generator=generator).half()
            continue
        out, into = shape[0], math.prod(shape[1:])
        n = min(out, into)
        weight = (columns(out, n) * SPECTRA[spectrum](n, max(out, into))) @ columns(into, n).T
        yield (weight * (0.02 / weight.square().mean().sqrt())).reshape(shape).half()


def _write(paths: Sequence[Path], shapes: dict[str, tuple[int, ...]], tensors: Iterable[Sequence[Tensor]]) -> None:
    """Files of the same tensors in fp16, written one tensor after the other: whole models need no memory."""
    header: dict[str, object] = {}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for file in files:
            file.write(len(text).to_bytes(8, "little") + text)
        for each in tensors:
            for file, tensor in zip(files, each, strict=True):
                file.write(tensor.contiguous().numpy().tobytes())
