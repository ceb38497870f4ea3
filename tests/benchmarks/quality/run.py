"""The whole benchmark: train what is missing, judge every pair and style, print the tables, draw the grid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.benchmarks.quality import grid, pictures, table
from tests.benchmarks.quality.family import RECIPES
from tests.benchmarks.quality.judging import SOURCE, Case, judged
from tests.benchmarks.quality.training import Workshop

QUICK = 0.004
"""Share of the training in the quick mode, which only shows that everything runs."""


def run(folder: Path, seeds: Sequence[int], *, quick: bool = False) -> None:
    """Train and judge a family for each seed; what is in ``folder`` already is not done again.

    Args:
        folder: where everything is kept, a folder in it for each seed.
        seeds: of families.
        quick: hardly train at all.
    """
    torch.set_num_threads(1)  # so that the same seed gives the same family on any number of processors
    everything: list[Case] = []
    for seed in seeds:
        name = f"quick-{seed}" if quick else f"seed-{seed}"
        shop = Workshop(folder / name, seed, QUICK if quick else 1.0)
        cases = _family(shop)
        everything += cases
        print(
            f"\nSeed {seed}, torch {torch.__version__}\n\n{table.table(cases)}\n\n{table.choices(cases)}\n", flush=True
        )
        picture = shop.folder / "grid.png"
        began = time.monotonic()
        grid.draw_grid(shop, cases, picture)
        print(f"{picture} ({time.monotonic() - began:.0f} s)\n")
    print(f"Rank correlation of movement match and score\n\n{table.correlations(everything)}\n")
    print(table.goals(everything))


def _family(shop: Workshop) -> list[Case]:
    began = time.monotonic()
    cases = []
    styles = tuple(pictures.STYLES) if shop.effort == 1.0 else tuple(pictures.STYLES)[:1]
    for recipe in RECIPES:
        shop.base(recipe.name)
        for style in styles:
            shop.lora(recipe.name, style)
    print(f"trained: {time.monotonic() - began:.0f} s", flush=True)
    for pair in (recipe.name for recipe in RECIPES if recipe.name != SOURCE):
        for style in styles:
            began = time.monotonic()
            cases.append(judged(shop, pair, style))
            print(f"judged {pair}, {style}: {time.monotonic() - began:.0f} s", flush=True)
    return cases
