"""One pair of bases and one style: every adapter that goes from one to the other, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from lib_transfer.evaluation.gain import Gain
from lib_transfer.update import Update, Updates
from tests.benchmarks.quality import adapters, imitating, measures, pictures
from tests.benchmarks.quality.adapters import INSERTED, METHODS, PROLORA, REUSE, ROTATION, Changes
from tests.benchmarks.quality.family import Base
from tests.benchmarks.quality.training import Workshop, recipe_of

SOURCE = "base"
BEST, RETRAINED, IMITATED, ORDINARY = "reuse, best strength", "retrained", "imitate", "ordinary training"

STRENGTHS = (0.6, 0.8, 1.0, 1.2, 1.4)
"""Of these, the baseline is told which is best by the truth, which nobody knows who has no pictures."""


@dataclass(frozen=True)
class Facts:
    """What is known of a pair and style without any transferred adapter.

    Attributes:
        gap: the domain gap.
        losses: the target's losses on held-out pictures of its domain without an adapter, and with the retrained one.
        source_losses: the source's losses on those of its own without and with the original.
        sampled: how much of the style the retrained one's pictures show.
    """

    gap: float
    losses: tuple[float, float]
    source_losses: tuple[float, float]
    sampled: float


@dataclass(frozen=True)
class Measured:
    """What an adapter is worth.

    Attributes:
        score: the share of the retrained LoRA's gain on held-out pictures of the target's domain, in percent.
        sampled: how much of the style its pictures show, in percent of the retrained LoRA's.
        damage: how far it moves the target without its word, in percent of the retrained LoRA's gain.
        gain: what the product says: its share of the original's own gain, and the standard error of that.
        runs: how many runs of a model it took, a run with gradients counting three.
    """

    score: float
    sampled: float
    damage: float
    gain: tuple[float, float]
    runs: int = 0

    @property
    def verdict(self) -> str:
        """What the product says in words."""
        return Gain(*self.gain).verdict


@dataclass(frozen=True)
class Case:
    """What came out for one pair and style of one seed."""

    seed: int
    pair: str
    style: str
    facts: Facts
    measured: Mapping[str, Measured]


@dataclass(frozen=True)
class Judge:
    """One pair and style, with the models in memory; what is in its folder already is not done again.

    Attributes:
        shop: the family.
        pair: the name of the target.
        style: the LoRA's style.
    """

    shop: Workshop
    pair: str
    style: str

    @cached_property
    def folder(self) -> Path:
        """Where everything about the case is kept."""
        folder = self.shop.folder / "cases" / f"{self.shop.base_file(self.pair).stem}-{self.style}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def source(self) -> Base:
        """The base that the LoRA was trained on."""
        return self.shop.base(SOURCE)

    @cached_property
    def target(self) -> Base:
        """The base that it is carried to."""
        return self.shop.base(self.pair)

    @cached_property
    def original(self) -> Changes:
        """The LoRA on the source."""
        return adapters.read(self.shop.lora(SOURCE, self.style), self.source)

    @cached_property
    def lesson(self) -> imitating.Lesson:
        """What the product sees of the pair."""
        return imitating.Lesson(
            self.source, self.target, self.original, self.style, self.shop.seed, self.folder / "imitation"
        )

    @property
    def reusable(self) -> bool:
        """Whether modules correspond."""
        return not self.pair.startswith("unrelated")

    @property
    def deeper(self) -> bool:
        """Whether the target has inserted blocks."""
        return len(self.target.running().blocks) > len(self.source.running().blocks) and self.reusable

    def case(self, wanted: Callable[[Judge], Mapping[str, Recipe]]) -> Case:
        """What all adapters are worth."""
        measured = {}
        for name, recipe in wanted(self).items():
            kept = self.folder / f"{_stem(name)}.json"
            if not kept.exists():
                made = self._made(name, recipe)
                kept.write_text(json.dumps(asdict(self._measured(made[0], made[1])), indent=1))
            known = json.loads(kept.read_text())
            measured[name] = Measured(**{**known, "gain": tuple(known["gain"])})
        return Case(self.shop.seed, self.pair, self.style, self.facts, measured)

    def file(self, name: str) -> Path:
        """Where an adapter is kept."""
        return self.folder / f"{_stem(name)}.safetensors"

    @cached_property
    def facts(self) -> Facts:
        """What is known without any transferred adapter."""
        kept = self.folder / "facts.json"
        if not kept.exists():
            kept.write_text(json.dumps(asdict(self._facts()), indent=1))
        known = json.loads(kept.read_text())
        return Facts(known["gap"], tuple(known["losses"]), tuple(known["source_losses"]), known["sampled"])

    def _facts(self) -> Facts:
        retrained = adapters.read(self.shop.lora(self.pair, self.style), self.target)
        return Facts(
            self.lesson.gap,
            (self._loss({}), self._loss(retrained)),
            (self._loss({}, SOURCE, self.source), self._loss(self.original, SOURCE, self.source)),
            self._sampled(retrained),
        )

    def _made(self, name: str, recipe: Recipe) -> tuple[Changes, int]:
        changes, runs = recipe(self)
        path = self.file(name)
        if changes and not path.exists():
            adapters.write(path, changes, self.target)
        return changes, runs

    def _measured(self, changes: Updates, runs: int) -> Measured:
        without, retrained = self.facts.losses
        worth = without - retrained
        gain = self.lesson.gain(changes)
        chance = self.shop.generator(f"untriggered {self.style}")
        return Measured(
            100 * (without - self._loss(changes)) / worth,
            100 * self._sampled(changes) / self.facts.sampled,
            100 * measures.moved(self.target, changes, recipe_of(self.pair).domain, chance) / worth,
            (gain.share, gain.error),
            runs,
        )

    def _loss(self, changes: Updates, name: str = "", base: Base | None = None) -> float:
        domain = recipe_of(name or self.pair).domain
        return measures.loss(
            base or self.target, changes, domain, self.style, self.shop.generator(f"held out {self.style}")
        )

    def _sampled(self, changes: Updates) -> float:
        seed = self.shop.seed + 7
        made = measures.samples(self.target, changes, pictures.prompts(measures.SAMPLES, seed, self.style), seed + 1)
        return measures.styled(made, recipe_of(self.pair).domain, self.style, seed)


Recipe = Callable[[Judge], tuple[Changes, int]]
"""Makes an adapter, and says how many runs that took."""


def weights_only(method: str, inserted: str = "empty") -> Recipe:
    """What a method makes that looks at weights alone."""

    def make(judge: Judge) -> tuple[Changes, int]:
        shop, name = judge.shop, f"{method}, {inserted}"
        path = adapters.transferred(
            shop.lora(SOURCE, judge.style),
            shop.base_file(SOURCE),
            shop.base_file(judge.pair),
            judge.file(f"{name}, transferred"),
            inserted=inserted,
            **METHODS[method],
        )
        return ({} if path is None else adapters.read(path, judge.target)), 0

    return make


def best_strength(judge: Judge) -> tuple[Changes, int]:
    """Reuse at the strength that is best by the truth."""
    changes, _ = weights_only(REUSE)(judge)
    tried = [{name: update.scaled(strength) for name, update in changes.items()} for strength in STRENGTHS]
    return min(tried, key=judge._loss), 0


def retrained(judge: Judge) -> tuple[Changes, int]:
    """The LoRA that was trained on the target."""
    return adapters.read(judge.shop.lora(judge.pair, judge.style), judge.target), 0


def nothing(_: Judge) -> tuple[dict[str, Update], int]:
    """No adapter at all."""
    return {}, 0


def imitated(budget: int, *, teacher: bool = True, start: Recipe = weights_only(REUSE)) -> Recipe:
    """What the product makes by imitation (or, without the teacher, by ordinary training) within a number of runs."""

    def make(judge: Judge) -> tuple[Changes, int]:
        begun = start(judge)[0] if judge.reusable else {}
        return judge.lesson.imitated(begun, budget, teacher=teacher)

    return make


def recipes(judge: Judge) -> dict[str, Recipe]:
    """The adapters that every pair and style gets, by name."""
    found: dict[str, Recipe] = {}
    if judge.reusable:
        found |= {REUSE: weights_only(REUSE), BEST: best_strength}
        found |= {method: weights_only(method) for method in (PROLORA, ROTATION)}
    if judge.deeper:
        found |= {f"{REUSE}, {way}": weights_only(REUSE, way) for way in INSERTED if way != "empty"}
    budgets = imitating.CURVE if judge.pair in CURVE_PAIRS else (imitating.RUNS,)
    found |= {_of(IMITATED, budget): imitated(budget) for budget in budgets}
    found |= {_of(ORDINARY, budget): imitated(budget, teacher=False) for budget in budgets}
    return {**found, RETRAINED: retrained}


CURVE_PAIRS = ("pruned", "deep", "unrelated")
"""The pairs that the curve of score against runs is drawn for."""


def _of(name: str, budget: int) -> str:
    return name if budget == imitating.RUNS else f"{name}, {budget} runs"


def _stem(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def cases(shop: Workshop, pairs: tuple[str, ...], styles: tuple[str, ...]) -> Iterator[Case]:
    """The cases of a family, one after the other."""
    for pair in pairs:
        for style in styles:
            yield Judge(shop, pair, style).case(recipes)
