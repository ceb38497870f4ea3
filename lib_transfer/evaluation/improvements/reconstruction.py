"""Reconstruction: an adapter for a target whose modules do not correspond to the source's.

The source's movement of the residual stream behind each block is mapped into the target's stream, by the ridge regression that
maps the streams themselves without adapters. Then, block by block with the earlier ones applied, the updates of the block's
output projections that make up what is missing are found together by ridge regression, and cut to a rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.evaluation.improvements.improvement import Evidence, Scale, Start, Target
from lib_transfer.evaluation.observation import predict_with_streams
from lib_transfer.evaluation.streams import Streams, partners, same_places
from lib_transfer.linalg.ridge import Moments, chosen_map, reduced_rank, ridge_map
from lib_transfer.models.apply import applied
from lib_transfer.models.hooks import StopForward, stops_early, watched
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, predict
from lib_transfer.progress import Progress, check
from lib_transfer.update import Update, Updates, total

RANK = 32

PROJECTIONS = ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2")
"""The layers that write into the residual stream in a transformer block of Stable Diffusion."""

PROJECTION_RIDGE = 1e-1
"""The ridge of the projections: of 0.01, 0.1 and 1 the best on three pairs of the quality benchmark, in one style."""


@dataclass(frozen=True)
class Reconstruction:
    """Updates of the target's output projections that make its streams move as the source's did.

    Attributes:
        rank: the rank of each update.
        on_top_of: the adapter that they are added to; None for none.
    """

    rank: int = RANK
    on_top_of: str | None = None
    needs_streams: bool = True
    needs_gradients: bool = False

    @property
    def name(self) -> str:
        """The name of the adapter that it makes."""
        return "reconstruct" if self.on_top_of is None else f"{self.on_top_of} + reconstruct"

    @property
    def starts(self) -> Sequence[str]:
        """The adapter that it begins with."""
        return () if self.on_top_of is None else (self.on_top_of,)

    def cost(self, scale: Scale) -> int:
        """One run per input for the streams, and one for each block, most of them not to the end."""
        return scale.inputs * (1 + scale.blocks)

    def improve(self, target: Target, evidence: Evidence, start: Start, progress: Progress) -> Updates:
        """As :class:`Improvement` says."""
        found = reconstruct(target.model, evidence, start.updates, self.rank, progress)
        return {**start.updates, **{name: _sum(start.updates.get(name), update) for name, update in found.items()}}


def reconstruct(target: Model, evidence: Evidence, start: Updates, rank: int, progress: Progress) -> dict[str, Update]:
    """What is to be added to ``start`` so that the target's streams move as the source's did.

    Args:
        target: the model.
        evidence: what the updates are fitted to, with the source's streams.
        start: an adapter that is on the target already.
        rank: the rank of each update.
        progress: asked before every run whether to stop.
    """
    source, inputs = evidence.streams, evidence.inputs
    assert source is not None
    # By the size at which they are run here: two models of one latent space may have been trained at different sizes.
    channels, height, width = inputs.clean.shape[1:]
    mine = Streams(evidence.folder, (channels, height, width))
    aspect = width / height
    for place, one in enumerate(inputs):
        check(progress)
        _, streams = predict_with_streams(target, one, mine)
        mine.put(place, "stream", streams)
        progress.step("reconstruction, the target's streams")
    paired = partners(mine.facts(), source.facts())
    maps = _stream_maps(mine, source, evidence.numbers, paired, aspect)
    found: dict[str, Update] = {}
    for block in target.blocks:
        names = [name for part in PROJECTIONS if (name := f"{block}.{part}") in target.places]
        if not names or block not in paired:
            continue
        moments, widths = None, {}
        for place, number in enumerate(evidence.numbers):
            check(progress)
            parts, stream = _before_and_behind(target, inputs.only([place]), block, names, mine, [start, found])
            x, widths = torch.cat(list(parts.values()), dim=1), {name: it.shape[1] for name, it in parts.items()}
            wanted = source.get(number, "moved")[paired[block]] @ maps[block]
            missing, x = _same(wanted, stream - mine.get(place, "stream")[block], x, aspect)
            moments = moments or Moments(x.shape[1], missing.shape[1])
            moments.add(x, missing)
            progress.step(f"reconstruction, {block}")
        assert moments is not None
        found |= _solved(moments, widths, rank)
    return found


def _stream_maps(
    mine: Streams, source: Streams, numbers: Sequence[int], paired: Mapping[str, str], aspect: float
) -> dict[str, Tensor]:
    """For each block of the target, the map ``(source width, target width)`` of streams; the constant part is left out."""
    moments: dict[str, tuple[Moments, Moments]] = {}
    for place, number in enumerate(numbers):
        here, there = source.get(number, "stream"), mine.get(place, "stream")
        for block, other in paired.items():
            x, y = same_places(here[other], there[block], aspect)
            x = torch.cat([x, x.new_full((x.shape[0], 1), float(x.square().mean().sqrt()))], dim=1)
            if block not in moments:
                moments[block] = Moments(x.shape[1], y.shape[1]), Moments(x.shape[1], y.shape[1])
            moments[block][place % 4 == 3].add(x, y)
    return {block: chosen_map(*both)[:-1].float() for block, both in moments.items()}


def _before_and_behind(
    target: Model, one: Inputs, block: str, names: Sequence[str], mine: Streams, on: Sequence[Updates]
) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of a block's output projections, and its stream, with adapters on; the run ends behind the block."""
    into: dict[str, Tensor] = {}
    behind: list[Tensor] = []

    def keep(name: str, tensor: Tensor) -> None:
        into[name] = mine.chosen(block, tensor)

    def end(name: str, tensor: Tensor) -> None:
        behind.append(mine.chosen(name, tensor))
        raise StopForward

    parts = {name: target.places[name].module for name in names}
    watching = watched(parts, keep, {block: target.blocks[block]}, end)
    with applied(target.places, on[0]), applied(target.places, on[1]), stops_early(), watching:
        predict(target, one)
    return {name: into[name].cpu() for name in names}, behind[0].cpu()


def _same(wanted: Tensor, moved: Tensor, x: Tensor, aspect: float) -> tuple[Tensor, Tensor]:
    """What is missing of a movement, and the inputs of the same tokens."""
    width = moved.shape[1]
    wanted, both = same_places(wanted, torch.cat([moved, x], dim=1), aspect)
    return wanted - both[:, :width], both[:, width:]


def _solved(moments: Moments, widths: Mapping[str, int], rank: int) -> dict[str, Update]:
    """The updates of a block's projections, solved together, each cut to ``rank`` where its inputs are.

    Args:
        moments: the moments of the projections' inputs, side by side, and of what is missing.
        widths: the number of columns that each projection's inputs have, in order.
        rank: the rank of each update.
    """
    solution = ridge_map(moments, PROJECTION_RIDGE)
    updates, begin = {}, 0
    for name, width in widths.items():
        rows = slice(begin, begin + width)
        gram = moments.gram[rows, rows]
        updates[name] = Update(reduced_rank(solution[rows], gram, rank, PROJECTION_RIDGE))
        begin += width
    return updates


def _sum(start: Update | None, found: Update) -> Update:
    """Both updates of a module as one; what stays factors shares its singular values evenly."""
    if start is None:
        return found
    both = total(start, found)
    return both if both.factors is None else both.recompressed()
