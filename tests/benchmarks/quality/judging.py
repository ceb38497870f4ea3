"""One pair of bases and one style: every adapter that goes from one to the other, what the product says, and the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lib_transfer.evaluation import Evaluation
from lib_transfer.evaluation.choice import IMITATION, REUSE, choose
from lib_transfer.evaluation.gain import Gain, Lead
from lib_transfer.evaluation.runs import BUDGET
from lib_transfer.update import Updates
from tests.benchmarks.quality import adapters, measures, pictures
from tests.benchmarks.quality.adapters import INSERTED, METHODS, Changes
from tests.benchmarks.quality.family import Base
from tests.benchmarks.quality.imitating import CURVE, evaluated
from tests.benchmarks.quality.training import Workshop, recipe_of

SOURCE = "base"
BEST, RETRAINED, ORDINARY = "reuse, best strength", "retrained", "ordinary training"
OTHER, RANDOM = "another style's LoRA", "random LoRA"
"""What cannot be a reproduction, so that a verdict can be seen to say so."""

STRENGTHS = (0.6, 0.8, 1.0, 1.2, 1.4)
"""Of these, the baseline is told which is best by the truth, which nobody knows who has no pictures."""

QUICK_BUDGET = 1500
"""The number of runs where hardly anything is trained."""

ONE_DOMAIN = ("pruned", "deep", "unrelated", "unrelated, other latents")
"""The targets that draw the same pictures as the base: other ways than reuse and imitation are compared on them alone."""

CURVE_PAIRS, CURVE_STYLE = ("pruned", "unrelated"), "stripes"
"""The pairs and the style that the curve of score against runs is drawn for."""


@dataclass(frozen=True)
class Measured:
    """What an adapter is worth by the truth.

    Attributes:
        score: the share of the retrained LoRA's gain on held-out pictures of the target's domain, in percent.
        sampled: how much of the style its pictures show, in percent of the retrained LoRA's.
        damage: how far it moves the target without its word, in percent of the retrained LoRA's gain.
    """

    score: float
    sampled: float
    damage: float


@dataclass(frozen=True)
class Case:
    """What came out for one pair and style of one seed.

    Attributes:
        seed, pair, style: which.
        gap: the domain gap, as the product finds it.
        gains: what the product says of every adapter.
        measured: what every adapter is worth by the truth.
        runs: how many runs of a model the product took for everything.
        delta: how much of the style pictures made by Delta Sampling show, in percent of the retrained LoRA's; None where
            that is not compared.
    """

    seed: int
    pair: str
    style: str
    gap: float
    gains: Mapping[str, Gain]
    measured: Mapping[str, Measured]
    runs: int
    delta: float | None = None

    @property
    def chosen(self) -> str | None:
        """What ``auto`` keeps: reuse, imitation or nothing."""
        known = {name: self.gains[name] for name in (REUSE, IMITATION) if name in self.gains}
        return choose(known, self.gap).name

    @property
    def auto(self) -> float:
        """The score of what ``auto`` keeps; to refuse is to change nothing."""
        return 0.0 if self.chosen is None else self.measured[self.chosen].score


@dataclass(frozen=True)
class Judge:
    """One pair and style. What is in its folder already is not done again.

    Attributes:
        shop: the family.
        pair: the name of the target.
        style: the LoRA's style.
    """

    shop: Workshop
    pair: str
    style: str

    def case(self) -> Case:
        """Everything that is known of the case."""
        candidates = self.candidates()
        kept = self.folder / "product.json"
        if not kept.exists():
            evaluation, runs = self._evaluated(candidates, 1.0, teacher=True)
            self._write(IMITATION, evaluation)
            facts = {"gap": evaluation.gap, "gains": _facts(evaluation), "runs": runs}
            kept.write_text(json.dumps(facts, indent=1))
        known = json.loads(kept.read_text())
        every = {**candidates, **self._trained(), **self.controls()}
        measured = {name: self.measured(name, changes) for name, changes in every.items()}
        gains = {name: _gain(facts) for name, facts in {**known["gains"], **self._gains_of_controls()}.items()}
        return Case(self.shop.seed, self.pair, self.style, known["gap"], gains, measured, known["runs"], self.delta())

    def candidates(self) -> dict[str, Changes]:
        """The adapters that take no training on the target, and the one that was trained there with its own pictures."""
        return {**self._transferred(), RETRAINED: self.retrained}

    def controls(self) -> dict[str, Changes]:
        """Adapters of the target that do something else: a LoRA of another style that was trained there, and a random one."""
        if self.pair not in ONE_DOMAIN:
            return {}
        styles = tuple(pictures.STYLES)
        other = self.shop.lora(self.pair, styles[(styles.index(self.style) + 1) % len(styles)])
        random = adapters.randomised(self.retrained, self.shop.generator(f"random LoRA {self.pair} {self.style}"))
        return {OTHER: adapters.read(other, self.target), RANDOM: random}

    def _gains_of_controls(self) -> dict[str, Any]:
        controls, kept = self.controls(), self.folder / "controls.json"
        if not controls:
            return {}
        if not kept.exists():
            evaluation, _ = self._evaluated(controls, 1.0, teacher=True, imitating=False)
            kept.write_text(json.dumps(_facts(evaluation), indent=1))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def measured(self, name: str, changes: Updates) -> Measured:
        """What an adapter is worth, from its file where it has one."""
        kept = self.result(name)
        if not kept.exists():
            kept.write_text(json.dumps(asdict(self._measured(changes)), indent=1))
        return Measured(**json.loads(kept.read_text()))

    def delta(self) -> float | None:
        """See :attr:`Case.delta`."""
        if self.pair not in ONE_DOMAIN or self.source.autoencoder.name != self.target.autoencoder.name:
            return None
        kept = self.folder / "delta-sampling.json"
        if not kept.exists():
            prompts, seed = self._asked()
            made = measures.delta_samples(self.target, self.source, self.original, prompts, seed + 1)
            kept.write_text(json.dumps(100 * measures.styled(made, self.domain, self.style, seed) / self._all_of_it))
        found: float = json.loads(kept.read_text())
        return found

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
    def retrained(self) -> Changes:
        """The LoRA that was trained on the target."""
        return adapters.read(self.shop.lora(self.pair, self.style), self.target)

    @cached_property
    def domain(self) -> str:
        """The target's."""
        return recipe_of(self.pair).domain

    def file(self, name: str) -> Path:
        """Where an adapter is kept."""
        return self.folder / f"{_stem(name)}.safetensors"

    def result(self, name: str) -> Path:
        """Where is kept what an adapter is worth."""
        return self.folder / f"{_stem(name)}.json"

    def trained(self, name: str) -> Changes:
        """An adapter that the product trained; no changes where it left that out."""
        path = self.file(name)
        return adapters.read(path, self.target) if path.exists() else {}

    def _transferred(self) -> dict[str, Changes]:
        """What looks at weights alone, where modules correspond; and reuse at its best strength."""
        if self.pair.startswith("unrelated"):
            return {}
        found = {name: self._by_weights(name, name, "empty") for name in METHODS}
        if self.pair == "deep":
            found |= {
                f"{REUSE}, {way}": self._by_weights(f"{REUSE}, {way}", REUSE, way) for way in INSERTED if way != "empty"
            }
        reuse = found[REUSE]
        tried = [{name: update.scaled(strength) for name, update in reuse.items()} for strength in STRENGTHS]
        return {**found, BEST: min(tried, key=self._loss)}

    def _by_weights(self, name: str, method: str, inserted: str) -> Changes:
        original, source, target = (
            self.shop.lora(SOURCE, self.style),
            self.shop.base_file(SOURCE),
            self.shop.base_file(self.pair),
        )
        path = adapters.transferred(original, source, target, self.file(name), inserted=inserted, **METHODS[method])
        return {} if path is None else adapters.read(path, self.target)

    def _trained(self) -> dict[str, Changes]:
        """The imitation, ordinary training with as many runs, and both with other numbers of runs where that is asked for."""
        found = {IMITATION: self.trained(IMITATION)}
        curve = self.pair in CURVE_PAIRS and self.style == CURVE_STYLE and self.shop.effort == 1.0
        for share in CURVE if curve else (1.0,):
            for kind in (IMITATION, ORDINARY) if self.pair in ONE_DOMAIN else (IMITATION,):
                name = with_runs(kind, share)
                if not self.file(name).exists() and not self.result(name).exists():
                    evaluation, _ = self._evaluated(self.candidates(), share, teacher=kind == IMITATION)
                    self._write(name, evaluation)
                found[name] = self.trained(name)
        return found

    def _evaluated(
        self, candidates: Mapping[str, Changes], share: float, *, teacher: bool, imitating: bool = True
    ) -> tuple[Evaluation, int]:
        budget = round(share * (BUDGET if self.shop.effort == 1.0 else QUICK_BUDGET))
        return evaluated(
            self.source, self.target, self.original, candidates, self.style, self.shop.seed, budget,
            teacher=teacher, imitating=imitating,
        )  # fmt: skip

    def _write(self, name: str, evaluation: Evaluation) -> None:
        if IMITATION in evaluation.updates:
            adapters.write(self.file(name), evaluation.updates[IMITATION], self.target)

    @cached_property
    def _without(self) -> float:
        """The loss without an adapter."""
        return self._loss({})

    @cached_property
    def _worth(self) -> float:
        """What the retrained LoRA gains."""
        return self._without - self._loss(self.retrained)

    @cached_property
    def _all_of_it(self) -> float:
        """How much of the style the retrained LoRA's pictures show."""
        return self._sampled(self.retrained)

    def _measured(self, changes: Updates) -> Measured:
        chance = self.shop.generator(f"untriggered {self.style}")
        return Measured(
            100 * (self._without - self._loss(changes)) / self._worth,
            100 * self._sampled(changes) / self._all_of_it,
            100 * measures.moved(self.target, changes, self.domain, chance) / self._worth,
        )

    def _loss(self, changes: Updates) -> float:
        chance = self.shop.generator(f"held out {self.style}")
        return measures.loss(self.target, changes, self.domain, self.style, chance)

    def _sampled(self, changes: Updates) -> float:
        prompts, seed = self._asked()
        made = measures.samples(self.target, changes, prompts, seed + 1)
        return measures.styled(made, self.domain, self.style, seed)

    def _asked(self) -> tuple[tuple[str, ...], int]:
        """The prompts of the pictures that the style is looked for in, and the seed that they come from."""
        seed = self.shop.seed + 7
        return pictures.prompts(measures.SAMPLES, seed, self.style), seed


def with_runs(kind: str, share: float) -> str:
    """The name of what was trained with this share of the usual number of runs, which is not named."""
    return kind if share == 1.0 else f"{kind}, {round(share * BUDGET)} runs"


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    return {name: asdict(gain) for name, gain in evaluation.gains.items()}


def _gain(facts: Mapping[str, Any]) -> Gain:
    """What ``asdict`` made JSON of."""
    lead = facts["lead"]
    return Gain(**{**facts, "lead": None if lead is None else Lead(**lead)})


def _stem(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-").replace("'", "")
