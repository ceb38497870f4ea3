"""What the target has to say: the domain gap, and what every adapter does to its losses."""

from __future__ import annotations

from torch import Tensor

from lib_transfer.evaluation.gain import Effect, damage, mean, shares
from lib_transfer.evaluation.gap import ExcessLoss, domain_gap, excess_loss
from lib_transfer.evaluation.losses import losses, predictions, probes
from lib_transfer.evaluation.observation import Observation, Observer
from lib_transfer.evaluation.pictures import Own
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model
from lib_transfer.update import Updates


class Judge:
    """What the target says without an adapter, against which adapters are judged.

    Args:
        target: the model, in memory.
        observer: how the source was observed.
        own: the target's own pictures, and what it says of them.
        seen: what was seen of the source.
    """

    def __init__(self, target: Model, observer: Observer, own: Own, seen: Observation) -> None:
        amounts, prompts, seed = observer.amounts, observer.prompts, observer.seed
        self._target, self._progress, self._seen, self._own = target, observer.progress, seen, own
        self._plain = probes(own.pictures.clean, prompts.own, amounts.own_draws, seed)
        self._held = probes(seen.held.latents_of(target), prompts.held, amounts.held_draws, seed)
        self._observer = observer
        self._without = losses(self._said(self._held, "target, without an adapter"), self._held.noise)
        self._sources = observer.own_probes(seen.own.pictures.latents_of(target))
        self._of_sources = observer.of_pair.made("target's losses", make=self._on_sources)

    def gap(self) -> float:
        """The domain gap."""
        familiar = losses(self._own.predicted, self._plain.noise)
        of_source = self._observer.own_probes(self._seen.own.pictures.clean)
        to_itself = losses(self._seen.own.predicted, of_source.noise)
        between = ExcessLoss(
            excess_loss(float(self._seen.on_targets.mean()), float(familiar.mean())),
            excess_loss(float(self._of_sources.mean()), float(to_itself.mean())),
        )
        return domain_gap(between, self._seen.learned)

    def share(self, updates: Updates) -> float:
        """The gain of an adapter as a share, with a run for every held-out input."""
        return mean(self._gains("imitation, held-out pictures", updates))

    def effect(self, name: str, updates: Updates) -> Effect:
        """What an adapter does to the target's losses, and its damage."""
        untriggered, learned = f"target, {name}, without the trigger words", self._seen.learned
        gains = self._gains(f"target, {name}", updates)
        on_own = self._said(self._plain, untriggered, updates)
        on_sources = self._said(self._sources, untriggered, updates)
        learns = shares(self._of_sources, losses(on_sources, self._sources.noise), learned)
        knows = shares(losses(self._own.predicted, self._plain.noise), losses(on_own, self._plain.noise), learned)
        return Effect(gains, learns - knows, damage(on_own, self._own.predicted, self._seen.movement))

    def _gains(self, what: str, updates: Updates) -> Tensor:
        with_it = losses(self._said(self._held, what, updates), self._held.noise)
        return shares(self._without, with_it, self._seen.learned)

    def _on_sources(self) -> Tensor:
        return losses(self._said(self._sources, "target, on the source's pictures"), self._sources.noise)

    def _said(self, inputs: Inputs, what: str, updates: Updates | None = None) -> Tensor:
        return predictions(self._target, inputs, self._progress, what, updates)
