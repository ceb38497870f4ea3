"""Residual streams behind a model's blocks: a part of the tokens of each, kept on disk in half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_transfer.errors import StorageError

TOKENS = 256
"""About how many tokens of a picture are looked at, at most."""


@dataclass(frozen=True)
class BlockFacts:
    """The facts by which blocks of two models are paired.

    Attributes:
        name: the block's name.
        level: how many times coarser than the latents its tokens are, as a power of 4.
        depth: its place in forward order, from 0 for the first block to 1 for the last.
    """

    name: str
    level: int
    depth: float


@dataclass
class Streams:
    """The residual streams of one model.

    Attributes:
        folder: the folder that they are kept in.
        shape: ``(channels, height, width)`` of the model's latents.
        tokens: the number of tokens of every block's whole stream; known once the model ran.
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
        """The facts by which the blocks are paired, in forward order."""
        area = self.shape[1] * self.shape[2]
        last = max(len(self.tokens) - 1, 1)
        return [
            BlockFacts(name, round(math.log(max(area / tokens, 1), 4)), place / last)
            for place, (name, tokens) in enumerate(self.tokens.items())
        ]

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{kind}-{number}.safetensors"


def partners(mine: list[BlockFacts], others: list[BlockFacts]) -> dict[str, str]:
    """The block of another model that each of a model's blocks is paired with, by name.

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
        here, there: tokens ``(tokens, width)``, as :meth:`Streams.chosen` gives them.
        aspect: width / height of the picture.
    """
    if here.shape[0] == there.shape[0]:
        return here, there
    (h1, w1), (h2, w2) = (sides(values.shape[0], aspect) for values in (here, there))
    rows, columns = min(h1, h2), min(w1, w2)
    return here[at(h1, w1, rows, columns)], there[at(h2, w2, rows, columns)]


def grid(tokens: int, aspect: float, most: int) -> Tensor:
    """The tokens of a picture that are looked at: at most about ``most`` of ``tokens``, spread evenly over it.

    The tokens of two models of different resolution at the same place of a grid lie at the same place of the picture.

    Args:
        tokens: the number of tokens, which lie row by row.
        aspect: width / height of the picture.
        most: the number wanted. Grids of two models with equal ``most`` and ``aspect`` have equally many entries where both
            models have more tokens.
    """
    (height, width), (rows, columns) = sides(tokens, aspect), sides(most, aspect)
    return at(height, width, min(height, rows), min(width, columns))


def sides(tokens: int, aspect: float) -> tuple[int, int]:
    """Height and width of a grid of about ``tokens`` tokens, of which there are no more."""
    height = max(round((tokens / aspect) ** 0.5), 1)
    return height, max(tokens // height, 1)


def at(height: int, width: int, rows: int, columns: int) -> Tensor:
    """The tokens of a picture of ``height x width`` of them that lie nearest to an even grid of ``rows x columns``."""
    y = ((torch.arange(rows) + 0.5) * height / rows).long().clamp(max=height - 1)
    x = ((torch.arange(columns) + 0.5) * width / columns).long().clamp(max=width - 1)
    return (y[:, None] * width + x[None, :]).reshape(-1)
