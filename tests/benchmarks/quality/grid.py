"""A picture of pictures: what the bases make without and with every adapter. A row for each pair and style."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib_transfer.models import TorchModel, applied
from lib_transfer.models.sampling import FIRST, LAST
from tests.benchmarks.quality import adapters, pictures
from tests.benchmarks.quality.family import Base
from tests.benchmarks.quality.judging import SOURCE, Case, candidates
from tests.benchmarks.quality.table import AUTO, COLUMNS
from tests.benchmarks.quality.training import Workshop

SHOWN = 3
"""Pictures in a cell."""

STEPS, GUIDANCE = 20, 3.0
NONE, ORIGINAL = "none", "original on source"


def draw_grid(shop: Workshop, cases: Sequence[Case], path: Path) -> None:
    """Make the pictures and write them as a PNG at ``path``."""
    from matplotlib.figure import Figure

    columns = [NONE, ORIGINAL, *(name for name in COLUMNS if name not in (AUTO, "reuse x1.3"))]
    figure = Figure(figsize=(1.1 * len(columns) * SHOWN / 2, 0.75 * len(cases)), dpi=110)
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        made = samples(shop, case)
        for axis, name in zip(row, columns, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            for edge in axis.spines.values():
                edge.set_visible(name == case.choice.name)
                edge.set_linewidth(2)
            if name in made:
                strip = torch.cat(list(made[name]), dim=2).clamp(-1, 1)
                axis.imshow((strip * 0.5 + 0.5).permute(1, 2, 0).numpy(), interpolation="nearest")
        row[0].set_ylabel(f"{case.pair}\n{case.style}", fontsize=8)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(path)


def samples(shop: Workshop, case: Case) -> dict[str, Tensor]:
    """Pictures ``(3, 3, 16, 16)`` of one pair and style by column; all from the same noise and prompts."""
    source, target = shop.base(SOURCE), shop.base(case.pair)
    original = adapters.read(shop.lora(SOURCE, case.style), source)
    prompts = pictures.prompts(SHOWN, 7, case.style)
    made = {NONE: _sampled(target, {}, prompts), ORIGINAL: _sampled(source, original, prompts)}
    for name, path in candidates(shop, case.pair, case.style).items():
        made[name] = _sampled(target, adapters.read(path, target), prompts)
    return made


def _sampled(base: Base, changes: adapters.Changes, prompts: Sequence[str]) -> Tensor:
    """Pictures by DDIM (Song et al. 2021, equation 12) with guidance, all prompts at once."""
    model: TorchModel = base.running()
    with applied(model.places, changes):
        x = torch.randn((len(prompts), *model.shape), generator=torch.Generator().manual_seed(8))
        for now, then in itertools.pairwise(torch.linspace(FIRST, LAST, STEPS + 1)):
            (a, s), (a_then, s_then) = model.schedule.mix(now[None]), model.schedule.mix(then[None])
            times = now.expand(2 * len(prompts))
            told, untold = model.noise(torch.cat([x, x]), times, [*prompts, *("" for _ in prompts)]).chunk(2)
            noise = untold + GUIDANCE * (told - untold)
            clean = (x - s * noise) / a
            x = a_then * clean + s_then * noise
        return model.decode(clean)
