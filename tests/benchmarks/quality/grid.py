"""A picture of pictures: what the bases make without and with every adapter. A row for each pair and style."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib_transfer.evaluation.choice import IMITATION, REUSE
from tests.benchmarks.quality import measures, pictures
from tests.benchmarks.quality.adapters import PROLORA
from tests.benchmarks.quality.judging import ORDINARY, RETRAINED, Case, Judge
from tests.benchmarks.quality.training import Workshop

SHOWN = 3
"""Pictures in a cell."""

NONE, ORIGINAL = "none", "original on source"
COLUMNS = (NONE, ORIGINAL, PROLORA, REUSE, ORDINARY, IMITATION, RETRAINED)


def draw_grid(shop: Workshop, cases: Sequence[Case], path: Path) -> None:
    """Make the pictures and write them as a PNG at ``path``; what ``auto`` keeps is framed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * len(COLUMNS) * SHOWN / 2, 0.75 * len(cases)), dpi=110)
    axes = figure.subplots(len(cases), len(COLUMNS), squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        made = samples(shop, case)
        for axis, name in zip(row, COLUMNS, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            for edge in axis.spines.values():
                edge.set_visible(name == case.chosen)
                edge.set_linewidth(2)
            if name in made:
                strip = torch.cat(list(made[name]), dim=2)
                axis.imshow((strip * 0.5 + 0.5).permute(1, 2, 0).numpy(), interpolation="nearest")
        row[0].set_ylabel(f"{case.pair}\n{case.style}".replace(", ", ",\n"), fontsize=7)
    for axis, name in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(name, fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(path)


def samples(shop: Workshop, case: Case) -> dict[str, Tensor]:
    """Pictures ``(3, 3, 16, 16)`` of one pair and style by column; all from the same noise and prompts."""
    judge = Judge(shop, case.pair, case.style)
    prompts = pictures.prompts(SHOWN, 7, case.style)
    trained = {name: judge.trained(name) for name in (ORDINARY, IMITATION) if judge.file(name).exists()}
    shown = {NONE: {}, **judge.candidates(), **trained}
    made = {name: measures.samples(judge.target, shown[name], prompts, 8) for name in COLUMNS if name in shown}
    return {ORIGINAL: measures.samples(judge.source, judge.original, prompts, 8), **made}
