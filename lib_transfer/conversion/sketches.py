"""How alike blocks of two checkpoints are, told cheaply: from sketches of their weights, without a decomposition.

A sketch is an orthonormal basis of ``W W^T W O`` with a fixed random ``O`` of a few columns (randomised subspace iteration,
Halko, Martinsson and Tropp 2011, algorithm 4.4): nearly the most dominant left singular directions. It costs three thin
products per weight, where a decomposition takes a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.parallel import one_thread_each
from lib_transfer.conversion.weights import Weight, read_weight
from lib_transfer.formats.checkpoint import Store
from lib_transfer.library.base import Base
from lib_transfer.linalg.subspace import chance_corrected
from lib_transfer.storage.cache import Cache, entry_key

COLUMNS = 32

TELLING = ("attn1.to_v", "attn2.to_v", "ff.net.2", "conv1", "conv2", "proj_out")
"""The jobs whose weights are compared, where a block has them: one of each kind tells blocks apart as well as all do."""

Block = tuple[Module, ...]


@dataclass(frozen=True)
class Sketches:
    """Scores of pairs of blocks of two bases.

    Attributes:
        source, target: the bases.
        cache: where scores are kept.
        device: where the mathematics is done.
    """

    source: Base
    target: Base
    cache: Cache
    device: torch.device

    def scores(self, sources: Sequence[Block], targets: Sequence[Block]) -> list[list[float]]:
        """The mean similarity, corrected for chance, of every pair of blocks; at most 0 where nothing can be compared.

        Raises:
            NumericError: a weight holds NaN or infinity.
            BadFileError, StorageError: a weight cannot be read.
        """
        if not sources or not targets:
            return [[] for _ in sources]
        names = ([m.name for block in blocks for m in block] for blocks in (sources, targets))
        key = entry_key("alignment", self.source.sha256, self.target.sha256, COLUMNS, *map(tuple, names))
        entry = self.cache.get("similarities", key)
        if entry is None:
            with one_thread_each(), torch.inference_mode():
                entry = {"scores": self._computed(sources, targets)}
            self.cache.put("similarities", key, entry)
        found: list[list[float]] = entry["scores"].tolist()
        return found

    def _computed(self, sources: Sequence[Block], targets: Sequence[Block]) -> Tensor:
        ours = [_sketched(block, self.source, self.device) for block in sources]
        theirs = [_sketched(block, self.target, self.device) for block in targets]
        return torch.tensor([[_alike(one, other) for other in theirs] for one in ours], dtype=torch.float32)


def _sketched(block: Block, base: Base, device: torch.device) -> dict[str, tuple[tuple[int, int], Tensor]]:
    """Shape and sketch of the telling weights of a block, by their job."""
    linear = [m for m in block if m.kind in ("linear", "convolution")]
    telling = [m for m in linear if m.position.role in TELLING] or linear
    return {
        m.position.role: (m.matrix_shape, sketch(Weight(base.checkpoint, base.identity(m), m, device).sound()))
        for m in telling
    }


def _alike(one: dict[str, tuple[tuple[int, int], Tensor]], other: dict[str, tuple[tuple[int, int], Tensor]]) -> float:
    """Mean over all jobs; one that only one block has, or that has another shape there, counts as not alike."""
    jobs = one.keys() | other.keys()
    alike = [
        _similarity(one[job][1], other[job][1]) for job in one.keys() & other.keys() if one[job][0] == other[job][0]
    ]
    return sum(alike) / len(jobs) if jobs else 0.0


def _similarity(one: Tensor, other: Tensor) -> float:
    dimension, k = one.shape
    return chance_corrected(float((one.T @ other).square().sum()) / k, k, dimension)


def sketch(weight: Tensor) -> Tensor:
    """Nearly the most dominant left singular directions of ``weight`` ``(out, in)``: ``(out, k)``, orthonormal columns.

    ``k`` is :data:`COLUMNS`, but at most half of the smaller dimension, so that two sketches can differ.
    """
    k = max(1, min(COLUMNS, min(weight.shape) // 2))
    probe = torch.randn(weight.shape[1], k, generator=torch.Generator().manual_seed(k)).to(weight.device)
    basis: Tensor = torch.linalg.qr(weight @ (weight.T @ (weight @ probe)))[0]
    return basis


def same_weights(source: Store, target: Store, pairs: Sequence[tuple[Module, Module]]) -> bool:
    """Whether all pairs of modules have equal weights, as far as the coarser of both number formats tells.

    False for no pairs.
    """
    return bool(pairs) and all(_equal(source, target, *pair) for pair in pairs)


def same_encoders(source: Base, target: Base) -> bool:
    """Whether the target has text encoders, and the source has the same ones with the same weights."""
    parts = {layout.part for layout in target.architecture.text_encoders}
    theirs = [module for module in target.modules if module.position.part in parts]
    pairs = [(source.by_name[m.name], m) for m in theirs if m.name in source.by_name]
    return len(pairs) == len(theirs) and same_weights(source.checkpoint, target.checkpoint, pairs)


def _equal(source: Store, target: Store, one: Module, other: Module) -> bool:
    if one.shape != other.shape:
        return False
    dtype = coarser(source.dtype(one.weight), target.dtype(other.weight))
    a, b = (read_weight(file, module).to(dtype) for file, module in ((source, one), (target, other)))
    return torch.equal(a, b)


def coarser(one: str, other: str) -> torch.dtype:
    """The coarser one of two number formats by their names; bfloat16 stands for those that are coarser still."""
    formats = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16}
    order = (torch.float32, torch.float16, torch.bfloat16)
    return max((formats.get(name, torch.bfloat16) for name in (one, other)), key=order.index)
