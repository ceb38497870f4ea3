"""The whole benchmark: train what is missing, judge every pair and style, print the tables, draw the grid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.benchmarks.quality import grid, pictures, table
from tests.benchmarks.quality.family import RECIPES
from tests.benchmarks.quality.judging import SOURCE, Case, Judge
from tests.benchmarks.quality.training import Workshop

QUICK = 0.002
"""Share of the training in the quick mode, which only shows that everything runs."""

QUICK_PAIRS = ("drift 3", "deep", "unrelated, other latents")

TABLES = {
    "Scores": table.scores,
    "Style in samples, and damage": table.sides,
    "How far imitation is ahead of reuse, as it seems and by the truth": table.graded,
    "Inserted blocks": table.inserted,
    "Score against runs": table.curve,
    "Verdicts": table.verdicts,
    "Goals": table.goals,
}


def run(folder: Path, seeds: Sequence[int], pairs: Sequence[str] = (), *, quick: bool = False) -> None:
    """Train and judge a family for each seed; what is in ``folder`` already is not done again.

    Args:
        folder: where everything is kept, a folder in it for each seed.
        seeds: of families.
        pairs: the names of the targets that are judged; all of them when none is given.
        quick: hardly train at all, and judge a few pairs.
    """
    unknown = set(pairs) - {recipe.name for recipe in RECIPES if recipe.name != SOURCE}
    if unknown:
        raise SystemExit(f"There is no target {', '.join(sorted(unknown))}.")
    torch.set_num_threads(1)  # so that the same seed gives the same family on any number of processors
    everything: list[Case] = []
    for seed in seeds:
        name = f"quick-{seed}" if quick else f"seed-{seed}"
        shop = Workshop(folder / name, seed, QUICK if quick else 1.0)
        everything += _family(shop, pairs)
        began = time.monotonic()
        picture = shop.folder / "grid.png"
        grid.draw_grid(shop, [case for case in everything if case.seed == seed], picture)
        print(f"{picture} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"\nSeeds {', '.join(map(str, seeds))}, torch {torch.__version__}")
    for title, made in TABLES.items():
        print(f"\n{title}\n\n{made(everything)}")


def _family(shop: Workshop, only: Sequence[str]) -> list[Case]:
    pairs = [recipe.name for recipe in RECIPES if recipe.name != SOURCE and (not only or recipe.name in only)]
    styles = tuple(pictures.STYLES)
    if shop.effort < 1.0:
        pairs, styles = [pair for pair in pairs if only or pair in QUICK_PAIRS], styles[:1]
    began = time.monotonic()
    for name in (SOURCE, *pairs):
        shop.base(name)
        for style in styles:
            shop.lora(name, style)
    print(f"trained: {time.monotonic() - began:.0f} s", flush=True)
    cases = []
    for pair in pairs:
        for style in styles:
            began = time.monotonic()
            cases.append(Judge(shop, pair, style).case())
            print(f"judged {pair}, {style}: {time.monotonic() - began:.0f} s", flush=True)
    return cases
