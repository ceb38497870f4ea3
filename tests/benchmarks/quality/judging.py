"""One pair of bases and one style: every adapter that goes from one to the other, how it moves, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lib_transfer.evaluation import Adapters, Choice, Match, Pair, Setup, choose, compare
from lib_transfer.evaluation.improvements import improvements
from lib_transfer.evaluation.improvements.improvement import groups
from lib_transfer.models import Model, applied
from lib_transfer.progress import Silent
from lib_transfer.update import Updates
from tests.benchmarks.quality import adapters, pictures
from tests.benchmarks.quality.family import Base
from tests.benchmarks.quality.training import LORA_RANK, Workshop, loss_of, recipe_of

SOURCE = "base"
REUSE, RETRAINED = "reuse", "retrained"
FITTED = tuple(improvement.name for improvement in improvements())
UNTRIED = ("reuse x1.3", RETRAINED)
"""What the automatic choice does not know of."""

HELD_OUT = 256
"""Pictures that losses are taken on."""

INPUTS, FITTING = 16, 32
"""Inputs that movement match is taken on, and those to fit to.

A latent is 8 by 8 here and 64 by 64 in a real base: what is fitted needs more of them to see as many tokens.
"""

QUICK_INPUTS = 2


@dataclass(frozen=True)
class Case:
    """What came out for one pair and style.

    Attributes:
        pair: the name of the target.
        style: the LoRA's style.
        explained: the movement match by adapter.
        spread: the smallest and largest match over the inputs, by adapter.
        score: the share of the retrained LoRA's gain, in percent, by adapter.
        losses: the target's losses on held-out pictures without an adapter, and with the retrained one.
        source_losses: the source's losses without and with the original.
        distance: the distance of the bases from each other.
    """

    pair: str
    style: str
    explained: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]
    score: Mapping[str, float]
    losses: tuple[float, float]
    source_losses: tuple[float, float]
    distance: float

    @property
    def choice(self) -> Choice:
        """What ``auto`` does."""
        known = {name: Match(match, self.spread[name]) for name, match in self.explained.items() if name not in UNTRIED}
        return choose(known, REUSE if REUSE in known else None, self.distance)


def judged(shop: Workshop, pair: str, style: str) -> Case:
    """The case, from its file where it has one."""
    kept = _folder(shop) / f"{pair}-{style}.json"
    if kept.exists():
        return Case(**json.loads(kept.read_text()))
    case = _judged(shop, pair, style)
    kept.write_text(json.dumps(asdict(case), indent=1))
    return case


def candidates(shop: Workshop, pair: str, style: str) -> dict[str, Path]:
    """The files of every adapter for the pair and style that there is by now."""
    original, source, target = shop.lora(SOURCE, style), shop.base_file(SOURCE), shop.base_file(pair)
    known = adapters.FORCED if pair == "unrelated" else adapters.METHODS
    found = {}
    for name, settings in known.items():
        path = adapters.transferred(original, source, target, _file(shop, pair, style, name), **settings)
        if path is not None:
            found[name] = path
    found |= {name: path for name in FITTED if (path := _file(shop, pair, style, name)).exists()}
    return {**found, RETRAINED: shop.lora(pair, style)}


def _judged(shop: Workshop, pair: str, style: str) -> Case:
    source, target = shop.base(SOURCE), shop.base(pair)
    original = adapters.read(shop.lora(SOURCE, style), source)
    files = {name: path for name, path in candidates(shop, pair, style).items() if name not in FITTED}
    changes = {name: adapters.read(path, target) for name, path in files.items()}
    reuse = REUSE if REUSE in changes else None
    inputs, fitting = (INPUTS, FITTING) if shop.effort == 1.0 else (QUICK_INPUTS, QUICK_INPUTS)
    setup = Setup(pictures.prompts(inputs + fitting, shop.seed + 100, style), inputs, fitting, seed=shop.seed + 200)
    pair_of_bases = Pair(
        lambda: _open(source),
        lambda: _open(target),
        target.autoencoder.name,
        groups(module for module, _ in target.found().values()),
        len(target.running().blocks),
    )
    compared = Adapters(original, changes, reuse, given=reuse)
    found = compare(pair_of_bases, compared, setup, Silent(), improvements(LORA_RANK), insist=True)
    for name in FITTED:
        if name in found.updates:
            adapters.write(_file(shop, pair, style, name), found.updates[name], target)
    losses = {name: loss(shop, pair, target, changes, style) for name, changes in found.updates.items()}
    nothing = loss(shop, pair, target, {}, style)
    return Case(
        pair,
        style,
        {name: match.explained for name, match in found.matches.items()},
        {name: match.spread for name, match in found.matches.items()},
        {name: 100 * (nothing - lost) / (nothing - losses[RETRAINED]) for name, lost in losses.items()},
        (nothing, losses[RETRAINED]),
        (loss(shop, SOURCE, source, {}, style), loss(shop, SOURCE, source, original, style)),
        found.distance,
    )


@torch.no_grad()
def loss(shop: Workshop, name: str, base: Base, changes: Updates, style: str) -> float:
    """The denoising loss of the base ``name`` with an adapter, on held-out pictures of its domain in the style."""
    generator = shop.generator(f"held out {style}")
    shown = pictures.draw(HELD_OUT, generator, recipe_of(name).domain, style)
    noise = torch.randn(base.autoencoder.encode(shown.pixels).shape, generator=generator)
    times = (torch.randperm(HELD_OUT, generator=generator) + 0.5) / HELD_OUT
    with applied(base.running().places, changes):
        return float(loss_of(base, shown, noise, times, shown.prompts).mean())


@contextmanager
def _open(base: Base) -> Iterator[Model]:
    yield base.running()


def _folder(shop: Workshop) -> Path:
    folder = shop.folder / "cases"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(shop: Workshop, pair: str, style: str, name: str) -> Path:
    return _folder(shop) / f"{pair}-{style}-{name.replace(' ', '')}.safetensors"
