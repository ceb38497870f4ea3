"""How alike the blocks of two checkpoints are, number by number: for relatives whose blocks are copies of each other.

The cosine of two weights is 1 where they are equal, and near 0 where they have nothing to do with each other, whatever their
spectra are. Some rows of a few weights tell it well enough, so that little of the files is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.parallel import one_thread_each
from lib_transfer.conversion.weights import read_weight
from lib_transfer.formats.checkpoint import Store
from lib_transfer.library.base import Base
from lib_transfer.storage.cache import Cache, entry_key

BANDS, ROWS = 4, 8
"""How many stretches of rows of a weight are compared, and how many rows each has."""

Block = tuple[Module, ...]


def cosines(
    source: Base, target: Base, blocks: Sequence[Block], others: Sequence[Block], roles: Sequence[str], cache: Cache
) -> list[list[float]]:
    """The mean cosine of the weights of these jobs, for every pair of a block of the source and one of the target.

    Two weights that are zero count as equal (1); one that a block lacks, or that has another shape there, as not alike (0).

    Raises:
        BadFileError, StorageError: a weight cannot be read.
    """
    names = ([m.name for block in side for m in block if m.position.role in roles] for side in (blocks, others))
    key = entry_key("cosines", source.sha256, target.sha256, BANDS, ROWS, *map(tuple, names))
    entry = cache.get("similarities", key)
    if entry is None:
        with one_thread_each(), torch.inference_mode():
            scores = torch.zeros(len(blocks), len(others), dtype=torch.float64)
            for role in roles:
                ours, theirs = _directions(source, blocks, role), _directions(target, others, role)
                if ours.shape[1] == theirs.shape[1]:
                    scores += ours @ theirs.T
            # Rounded, so that of two equal copies none is nearer by chance.
            entry = {"scores": (scores / len(roles)).nan_to_num(0.0).round(decimals=4)}
        cache.put("similarities", key, entry)
    found: list[list[float]] = entry["scores"].tolist()
    return found


def _directions(base: Base, blocks: Sequence[Block], role: str) -> Tensor:
    """The weight of this job in every block as a vector of length 1: ``(blocks, numbers + 1)`` in float64.

    The last number is 1 for a weight that is zero, and 0 for the others. A block that lacks the weight has a row of zeros.
    """
    read = [_sample(base.checkpoint, block, role) for block in blocks]
    numbers = max((len(sample) for sample in read), default=0)
    found = torch.zeros(len(read), numbers + 1, dtype=torch.float64)
    for row, sample in zip(found, read, strict=True):
        if len(sample) == numbers:
            row[:-1], row[-1] = sample, float(numbers > 0 and not sample.any())
    lengths: Tensor = found.norm(dim=1, keepdim=True)
    return found / lengths.clamp(min=torch.finfo(torch.float64).tiny)


def _sample(checkpoint: Store, block: Block, role: str) -> Tensor:
    """Some rows of the weight of this job, one after the other; empty where the block has none."""
    module = next((module for module in block if module.position.role == role), None)
    return torch.empty(0) if module is None else sampled(checkpoint, module)


def sampled(checkpoint: Store, module: Module) -> Tensor:
    """Some rows of a weight, one after the other, in float32; all of one that is small, or that is not stored by itself.

    Raises:
        BadFileError, StorageError: it cannot be read.
    """
    out = module.shape[0]
    if out <= BANDS * ROWS or module.rows is not None or module.transposed:
        return read_weight(checkpoint, module).flatten()
    starts = [(out - ROWS) * band // (BANDS - 1) for band in range(BANDS)]
    return torch.cat([checkpoint.read(module.weight, (s, s + ROWS), torch.float32).flatten() for s in starts])
