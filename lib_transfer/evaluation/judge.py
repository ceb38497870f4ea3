"""What the target has to say: the domain gap, and the gain and the damage of every adapter on it."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from lib_transfer.evaluation.gain import Gain, damage, gain
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

    def gap(self) -> float:
        """The domain gap."""
        familiar = losses(self._own.predicted, self._plain.noise)
        of_source = self._observer.own_probes(self._seen.own.pictures.clean)
        to_itself = losses(self._seen.own.predicted, of_source.noise)
        to_target = self._observer.of_pair.made("target's losses", make=self._on_sources)
        between = ExcessLoss(
            excess_loss(float(self._seen.on_targets.mean()), float(familiar.mean())),
            excess_loss(float(to_target.mean()), float(to_itself.mean())),
        )
        return domain_gap(between, self._seen.learned)

    def share(self, updates: Updates) -> float:
        """The gain of an adapter as a share, with a run for every held-out input."""
        return self._gain("imitation, held-out pictures", updates).share

    def gain(self, name: str, updates: Updates) -> Gain:
        """The gain of an adapter and its damage."""
        found = self._gain(f"target, {name}", updates)
        with_it = self._said(self._plain, f"target, {name}, without the trigger words", updates)
        return dataclasses.replace(found, damage=damage(with_it, self._own.predicted, self._seen.movement))

    def _gain(self, what: str, updates: Updates) -> Gain:
        with_it = losses(self._said(self._held, what, updates), self._held.noise)
        return gain(self._without, with_it, self._seen.learned)

    def _on_sources(self) -> Tensor:
        there = self._observer.own_probes(self._seen.own.pictures.latents_of(self._target))
        return losses(self._said(there, "target, on the source's pictures"), there.noise)

    def _said(self, inputs: Inputs, what: str, updates: Updates | None = None) -> Tensor:
        return predictions(self._target, inputs, self._progress, what, updates)
