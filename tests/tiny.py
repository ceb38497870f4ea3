"""Tiny checkpoints with the real key names, relatives of them, and LoRAs for them, for tests of the whole way.

The numbers are made here and written with the safetensors library; of the code under test only the list of key names and
shapes is used. Weights have decaying spectra, so that their dominant subspaces mean something.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_transfer.architecture import Architecture, architectures, reference

Weights = dict[str, Tensor]

# Three transformer blocks and half of the middle: what a distilled relative lacks.
PRUNED = {
    "sd1": ("middle_block.1.", "middle_block.2.", "output_blocks.3.1."),
    "sdxl": ("middle_block.1.", "middle_block.2.", "input_blocks.7.1.transformer_blocks.5."),
}
UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model.encoder.layers."
OPENCLIP = "conditioner.embedders.1.model.transformer.resblocks."


def architecture(name: str) -> Architecture:
    return next(a for a in architectures() if a.id == name)


def weights(name: str, *, width: int = 8, seed: int = 1) -> Weights:
    """A checkpoint's tensors in float32."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _weight(shape, generator) for key, shape in reference(architecture(name), width=width).items()}


def _weight(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) < 2:
        return 1 + 0.1 * torch.randn(shape, generator=generator)
    out, into = shape[0], math.prod(shape[1:])
    n = min(out, into)
    left, right = torch.randn(out, n, generator=generator), torch.randn(n, into, generator=generator)
    decay = torch.exp(-4 * torch.arange(n) / n)
    return ((left * decay) @ right / math.sqrt(n * into)).reshape(shape)


def fine_tuned(parent: Weights, amount: float = 0.1, *, seed: int = 2) -> Weights:
    """The parent after a training that moved every weight by ``amount`` of its size."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: w + amount * w.square().mean().sqrt() * torch.randn(w.shape, generator=generator)
        for key, w in parent.items()
    }


def pruned(parent: Weights, name: str) -> Weights:
    """A fine-tuned relative that lacks the blocks of :data:`PRUNED`."""
    lacking = tuple(UNET + part for part in PRUNED[name])
    return fine_tuned({key: w for key, w in parent.items() if not key.startswith(lacking)}, seed=3)


def save(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, metadata: dict[str, str] | None = None
) -> Path:
    """Write with the safetensors library; floating point goes to ``dtype`` where one is given."""
    given = {
        key: (t.to(dtype) if dtype is not None and t.is_floating_point() else t).contiguous()
        for key, t in tensors.items()
    }
    save_file(given, path, metadata)
    return path


def factors(
    name: str, shape: Iterable[int], rank: int = 3, *, alpha: float | None = 1.5, seed: int = 0, size: float = 0.1
) -> Weights:
    """A LoRA in kohya's form for the module ``name`` with a weight of ``shape``."""
    out, into, *kernel = shape
    generator = torch.Generator().manual_seed(seed + 7 * len(name))
    ones = [1] * len(kernel)
    made = {
        f"{name}.lora_up.weight": size * torch.randn(out, rank, *ones, generator=generator),
        f"{name}.lora_down.weight": size * torch.randn(rank, into, *kernel, generator=generator),
    }
    return made if alpha is None else {**made, f"{name}.alpha": torch.tensor(alpha)}


@dataclass(frozen=True, repr=False)
class Files:
    """Checkpoints on disk, and the numbers that are in them (rounded to their number format, as float32)."""

    folder: Path
    paths: dict[str, Path]
    tensors: dict[str, Weights]

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]

    def weight(self, name: str, key: str) -> Tensor:
        """A weight as a matrix in float64."""
        return self.tensors[name][key].double().flatten(1)


def make(folder: Path) -> Files:
    """``<architecture>-source`` (fp16), ``-target`` (its fine-tune, fp16) and ``-pruned`` (fp16) for SD1 and SDXL."""
    made: dict[str, Weights] = {}
    for name in ("sd1", "sdxl"):
        source = weights(name)
        made |= {
            f"{name}-source": source,
            f"{name}-target": fine_tuned(source),
            f"{name}-pruned": pruned(source, name),
        }
    rounded = {name: {key: w.half().float() for key, w in tensors.items()} for name, tensors in made.items()}
    paths = {name: save(folder / f"{name}.safetensors", t, torch.float16) for name, t in rounded.items()}
    return Files(folder, paths, rounded)
