"""Residual streams behind a model's blocks, kept on disk in half precision, a part of their tokens each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_transfer.errors import StorageError
from lib_transfer.models.record import at, grid, sides

TOKENS = 256
"""How many tokens of a picture are looked at, at most about."""


@dataclass(frozen=True)
class BlockFacts:
    """What a block is paired by.

    Attributes:
        name: of the block.
        level: how many times coarser than the latents its tokens are, as a power of 4.
        depth: 0 for the first block and 1 for the last.
    """

    name: str
    level: int
    depth: float


@dataclass
class Streams:
    """The residual streams of one model.

    Attributes:
        folder: where they are.
        shape: ``(channels, height, width)`` of the model's latents.
        tokens: of every block's whole stream; known once it ran.
    """

    folder: Path
    shape: tuple[int, int, int]
    tokens: dict[str, int] = field(default_factory=dict)

    def put(self, number: int, kind: str, values: Mapping[str, Tensor]) -> None:
        """Keep ``values`` ``(tokens, width)`` by block, of the input ``number``."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Scaled to their largest number: half precision ends at 65504, and some streams go beyond.
            scaled = {}
            for name, tensor in values.items():
                largest = tensor.float().abs().max().clamp(min=1e-20)
                scaled[name] = (tensor.float() / largest).half().cpu().contiguous()
                scaled[f"{name}|scale"] = largest.cpu().reshape(1)
            save_file(scaled, self._path(number, kind))
        except OSError as error:
            raise StorageError(f"What was seen of the models could not be kept: {error.strerror}.") from error

    def get(self, number: int, kind: str) -> dict[str, Tensor]:
        """What :meth:`put` kept, float32."""
        kept = load_file(self._path(number, kind))
        return {name: t.float() * kept[f"{name}|scale"] for name, t in kept.items() if not name.endswith("|scale")}

    def chosen(self, name: str, tensor: Tensor) -> Tensor:
        """The looked-at tokens of ``tensor`` ``(1, tokens, width)``, as ``(tokens, width)``, float32."""
        tokens = tensor.shape[1]
        self.tokens[name] = tokens
        aspect = self.shape[2] / self.shape[1]
        return tensor[0, grid(tokens, aspect, TOKENS).to(tensor.device)].float()

    def facts(self) -> list[BlockFacts]:
        """What the blocks are paired by, in forward order."""
        area = self.shape[1] * self.shape[2]
        last = max(len(self.tokens) - 1, 1)
        return [
            BlockFacts(name, round(math.log(max(area / tokens, 1), 4)), place / last)
            for place, (name, tokens) in enumerate(self.tokens.items())
        ]

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{kind}-{number}.safetensors"


def partners(mine: list[BlockFacts], others: list[BlockFacts]) -> dict[str, str]:
    """Which block of another model each of a model's blocks is paired with.

    Where the blocks of one are all among those of the other, one is the other pruned, and those of one name correspond.
    Elsewhere names mean nothing.
    """
    names, theirs = {block.name for block in mine}, {block.name for block in others}
    alike = names & theirs if names <= theirs or theirs <= names else set()
    return {block.name: block.name if block.name in alike else partner(block, others).name for block in mine}


def partner(block: BlockFacts, among: list[BlockFacts]) -> BlockFacts:
    """The block of another model at the same resolution, or else the nearest one, and at the most similar depth."""
    return min(among, key=lambda other: (abs(other.level - block.level), abs(other.depth - block.depth)))


def same_places(here: Tensor, there: Tensor, aspect: float) -> tuple[Tensor, Tensor]:
    """Rows of two grids of tokens that lie at the same places of the picture.

    Args:
        here, there: ``(tokens, width)``, as :meth:`Streams.chosen` gives them.
        aspect: width / height of the picture.
    """
    if here.shape[0] == there.shape[0]:
        return here, there
    (h1, w1), (h2, w2) = (sides(values.shape[0], aspect) for values in (here, there))
    rows, columns = min(h1, h2), min(w1, w2)
    return here[at(h1, w1, rows, columns)], there[at(h2, w2, rows, columns)]
