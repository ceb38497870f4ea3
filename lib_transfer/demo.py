"""Small files in real formats to try everything on: no download, a few seconds.

A folder laid out like a WebUI's, with a Stable Diffusion XL checkpoint, a fine-tune and a pruned relative of it, and
LoRAs for the first. All have the real key names and structure, at a tenth of the real widths, and made-up numbers: they
show what the program does, not what a transfer is worth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib_transfer.architecture import architectures, modules, reference
from lib_transfer.architecture.module import Module
from lib_transfer.formats.identity import file_sha256, legacy_a1111_hash
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.publish import publish
from lib_transfer.formats.serialise import serialise
from lib_transfer.formats.writer import write_adapter

WIDTH = 32

# What SSD-1B leaves out of SDXL (Gupta et al. 2024, arXiv 2401.02677): whole transformer blocks and half of the middle.
PRUNED = (
    *(f"{block}.1.transformer_blocks.{i}." for block in ("input_blocks.7", "input_blocks.8") for i in range(4, 10)),
    *(f"{block}.1.transformer_blocks.{i}." for block in ("output_blocks.0", "output_blocks.1") for i in range(4, 10)),
    *(f"{block}.1.transformer_blocks.1." for block in ("output_blocks.4", "output_blocks.5")),
    "middle_block.1.",
    "middle_block.2.",
)


@dataclass(frozen=True)
class DemoFiles:
    """Where the demo's files lie."""

    models: Path
    base: Path
    fine_tune: Path
    pruned: Path
    style: Path
    locon: Path


def make(folder: Path) -> DemoFiles:
    """Make the demo's files in ``folder``; those that are there already are kept.

    Raises:
        StorageError: they cannot be written.
    """
    checkpoints, adapters = folder / "models" / "Stable-diffusion", folder / "models" / "Lora"
    for path in (checkpoints, adapters):
        path.mkdir(parents=True, exist_ok=True)
    files = DemoFiles(
        folder / "models",
        checkpoints / "demo-base.safetensors",
        checkpoints / "demo-finetune.safetensors",
        checkpoints / "demo-pruned.safetensors",
        adapters / "demo-style.safetensors",
        adapters / "demo-locon.safetensors",
    )
    if all(path.is_file() for path in (files.base, files.fine_tune, files.pruned, files.style, files.locon)):
        return files
    generator = torch.Generator().manual_seed(20260101)
    (architecture,) = (a for a in architectures() if a.id == "sdxl")
    weights = {key: _weight(shape, generator) for key, shape in reference(architecture, width=WIDTH).items()}
    _write_checkpoint(files.base, weights)
    _write_checkpoint(files.fine_tune, _drifted(weights, 0.1, generator))
    _write_checkpoint(files.pruned, _drifted({k: w for k, w in weights.items() if not _is_pruned(k)}, 0.2, generator))

    found = modules(architecture, {key: tuple(w.shape) for key, w in weights.items()})
    metadata = {
        **architecture.metadata,
        "ss_sd_model_name": files.base.name,
        "ss_sd_model_hash": legacy_a1111_hash(files.base),
        "ss_new_sd_model_hash": file_sha256(files.base),
        "ss_network_module": "networks.lora",
        "modelspec.trigger_phrase": "demo style",
    }
    attention = [m for m in found if m.kind == "linear" and m.position.role.startswith(("attn", "self_attn"))]
    cross = [m for m in attention if m.position.role.startswith("attn2")]
    kernels = [m for m in found if m.kind == "convolution" and m.position.role in ("conv1", "conv2")]
    for path, chosen, rank in ((files.style, attention, 8), (files.locon, [*cross, *kernels], 4)):
        _write_lora(path, chosen, weights, rank, {**metadata, "ss_output_name": path.stem}, generator)
    return files


def _weight(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A weight with the decaying spectrum that trained ones have."""
    if len(shape) < 2:
        return torch.randn(shape, generator=generator) * 0.02
    out, into = shape[0], math.prod(shape[1:])
    n = min(out, into)
    decay = torch.exp(-3 * torch.arange(n) / n)
    left, right = torch.randn(out, n, generator=generator), torch.randn(n, into, generator=generator)
    weight: Tensor = (left * decay) @ right / math.sqrt(n * into)
    return weight.reshape(shape)


def _drifted(weights: Mapping[str, Tensor], amount: float, generator: torch.Generator) -> dict[str, Tensor]:
    """The weights after a training that moved them by ``amount`` of their size."""
    return {
        key: w + amount * w.square().mean().sqrt() * torch.randn(w.shape, generator=generator)
        for key, w in weights.items()
    }


def _is_pruned(key: str) -> bool:
    return any(f"diffusion_model.{part}" in key for part in PRUNED)


def _write_checkpoint(path: Path, weights: Mapping[str, Tensor]) -> None:
    file = serialise({key: w.half().contiguous() for key, w in weights.items()}, {"format": "pt"})
    publish(path, file.pieces(), file.size, overwrite=True)


def _write_lora(
    path: Path,
    chosen: Iterable[Module],
    weights: Mapping[str, Tensor],
    rank: int,
    metadata: Mapping[str, str],
    generator: torch.Generator,
) -> None:
    """A LoRA whose updates are a tenth of the size of the weights they change."""
    tensors: dict[str, Tensor] = {}
    for module in chosen:
        if module.output_name is None:
            continue
        out, into = module.matrix_shape
        size = 0.1 * float(weights[module.weight].square().mean().sqrt()) / rank**0.5
        up = torch.randn(out, rank, generator=generator) * size**0.5
        down = torch.randn(rank, into, generator=generator) * size**0.5
        kernel = (module.shape[2], module.shape[3]) if module.kind == "convolution" else None
        tensors |= lora_tensors(module.output_name, up, down, kernel, torch.float16)
    described = {**metadata, "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    write_adapter(path, tensors, described, overwrite=True)
