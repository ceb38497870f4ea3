"""What the product makes of a pair of running models: domain gap, imitation, gains. Nothing here knows the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lib_transfer.architecture.module import Module
from lib_transfer.evaluation import Adapters, Evaluation, Pair, Setup, compare
from lib_transfer.evaluation.comparison import runs_of
from lib_transfer.evaluation.runs import BUDGET, Amounts
from lib_transfer.models import Model
from lib_transfer.progress import Silent
from lib_transfer.update import Updates
from tests.benchmarks.quality import pictures
from tests.benchmarks.quality.family import Base

CURVE = (0.5, 1.0, 2.0)
"""The shares of the usual number of runs that the curve of score against runs has."""


def evaluated(
    source: Base, target: Base, original: Updates, candidates: Mapping[str, Updates], style: str, seed: int, budget: int,
    *, teacher: bool = True, imitating: bool = True,
) -> tuple[Evaluation, int]:  # fmt: skip
    """What the product finds out about adapters and one that it may train, and how many runs of a model that takes.

    Args:
        source, target: the bases.
        original: the LoRA on the source.
        candidates: adapters on the target, by name.
        style: of the LoRA.
        seed: of all noise.
        budget: how many runs it may take.
        teacher: whether the source's predictions are imitated; else the same pictures are trained on as people do it.
        imitating: whether anything is trained at all.
    """
    one_space = teacher and source.autoencoder.name == target.autoencoder.name
    pair = Pair(
        lambda: _open(source),
        lambda: _open(target),
        _modules(source),
        _modules(target),
        one_space=one_space,
    )
    prompts = pictures.prompts(64, seed + 100, style)
    setup = Setup(prompts, pictures.untriggered(prompts), amounts(budget), seed=seed + 200)
    adapters = Adapters(original, candidates)
    runs = runs_of(pair, adapters, setup, imitating=imitating)
    return compare(pair, adapters, setup, Silent(), imitating=imitating, insist=True), runs.all


def amounts(budget: int) -> Amounts:
    """How much of everything is made within so many runs; fewer pictures where there are few."""
    usual = Amounts(budget=budget)
    share = min(1.0, budget / BUDGET)
    return dataclasses.replace(usual, taught=max(8, round(usual.taught * share)), plain=round(usual.plain * share))


def _modules(base: Base) -> tuple[Module, ...]:
    return tuple(module for module, _ in base.found().values())


@contextmanager
def _open(base: Base) -> Iterator[Model]:
    yield base.running()
