"""What the source makes and says, in the order in which it is needed: this is all that passes between the two models.

Kept as soon as it is there, so that the source is not even loaded again where a killed evaluation is picked up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.evaluation.gap import ExcessLoss, domain_gap, excess_loss
from lib_transfer.evaluation.kept import Kept
from lib_transfer.evaluation.losses import losses, predictions, probes
from lib_transfer.evaluation.pictures import Own, Pictures, own_kept, own_pictures, pictures, shown
from lib_transfer.evaluation.runs import Amounts
from lib_transfer.evaluation.teacher import Batches, teach
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model
from lib_transfer.progress import Progress
from lib_transfer.update import Updates


@dataclass(frozen=True)
class Prompts:
    """The prompts of every picture.

    Attributes:
        held: the prompts of the held-out pictures.
        taught: those of the pictures that are trained on; the last of them are without the trigger words.
        own: those of the pictures that each checkpoint makes without the LoRA.
    """

    held: tuple[str, ...]
    taught: tuple[str, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Observation:
    """What was seen of the source.

    Attributes:
        own: its own pictures.
        held: the held-out pictures, made with the LoRA.
        on_targets: its losses on the target's own pictures ``(n,)``.
        without, with_it: its losses on the held-out pictures ``(n,)``, without and with the LoRA.
        movement: the mean square of its movement on those, ``e_sL - e_s``.
        taught: the pictures that are trained on; None where nothing is to be trained.
    """

    own: Own
    held: Pictures
    on_targets: Tensor
    without: Tensor
    with_it: Tensor
    movement: float
    taught: Pictures | None

    @property
    def learned(self) -> float:
        """What the LoRA gains on its own checkpoint, ``L(e_s; y) - L(e_sL; y)``."""
        return float((self.without - self.with_it).mean())


@dataclass(frozen=True, eq=False)
class Observer:
    """How the source is observed.

    Attributes:
        original: the LoRA on its own checkpoint.
        prompts: the prompts of every picture.
        amounts: how much of everything is made.
        seed: the seed of all noise.
        batches: the training that is to be taught; None where nothing is to be trained.
        one_space: whether the target has the same latents.
        wanted: whether the training is still wanted, as soon as the half of the domain gap that the source tells is known.
        of_source, of_pair: what is kept of the source by itself, and of both checkpoints without the LoRA.
        kept: what is kept of this evaluation.
        progress: asked before every run whether to stop; it gets a step for every run.
    """

    original: Updates
    prompts: Prompts
    amounts: Amounts
    seed: int
    batches: Batches | None
    one_space: bool
    wanted: Callable[[float], bool]
    of_source: Kept
    of_pair: Kept
    kept: Kept
    progress: Progress

    def remembered(self) -> Observation | None:
        """The observation, where all of it is kept."""
        found = self.kept.get("observed")
        own = own_kept(self.of_source, self.amounts.own_draws)
        if found is None or own is None:
            return None
        taught = Pictures.of(found, "taught") if "taught.clean" in found else None
        steps = 0 if self.batches is None or taught is None or not self.one_space else self.batches.steps
        if not all(self.kept.has("teacher", step) for step in range(steps)):
            return None
        return Observation(
            own,
            Pictures.of(found, "held"),
            found["on targets"],
            found["without"],
            found["with"],
            float(found["movement"]),
            taught,
        )

    def observed(self, source: Model, target_own: Own) -> Observation:
        """Let the source make its pictures, say what it has to say of them, and teach where that is wanted.

        Args:
            source: the model.
            target_own: the target's own pictures.
        """
        own = self._own(source)
        on_targets = self._on_targets(source, target_own)
        held = self._pictures(source, self.prompts.held, "held")
        there = probes(held.clean, self.prompts.held, self.amounts.held_draws, self.seed)
        before = predictions(source, there, self.progress, "source, without the LoRA")
        after = predictions(source, there, self.progress, "source, with the LoRA", self.original)
        without, with_it = losses(before, there.noise), losses(after, there.noise)
        movement = float((after.double() - before.double()).square().mean())
        half = domain_gap(self._half(on_targets, target_own), float((without - with_it).mean()))
        taught = None
        if self.batches is not None and self.wanted(half):
            taught = self._pictures(source, self.prompts.taught, "taught")
            if self.one_space:
                teach(source, self.original, taught.clean, self.batches, self.kept, self.progress)
        found = Observation(own, held, on_targets, without, with_it, movement, taught)
        self.kept.put("observed", tensors=_tensors(found))
        return found

    def _own(self, source: Model) -> Own:
        kept = own_kept(self.of_source, self.amounts.own_draws)
        if kept is not None:
            return kept
        return own_pictures(
            source, self.prompts.own, self.seed, self.amounts.sampling, self.amounts.own_draws, self.of_source,
            self.progress, decode=not self.one_space,
        )  # fmt: skip

    def _on_targets(self, source: Model, target_own: Own) -> Tensor:
        def made() -> Tensor:
            there = self.own_probes(target_own.pictures.latents_of(source))
            return losses(predictions(source, there, self.progress, "source, on the target's pictures"), there.noise)

        return self.of_pair.made("source's losses", make=made)

    def _half(self, on_targets: Tensor, target_own: Own) -> ExcessLoss:
        familiar = losses(target_own.predicted, self.own_probes(target_own.pictures.clean).noise)
        return ExcessLoss(excess_loss(float(on_targets.mean()), float(familiar.mean())))

    def own_probes(self, clean: Tensor) -> Inputs:
        """The probes of pictures that were made without the LoRA, in the latents of the model that is asked."""
        return probes(clean, self.prompts.own, self.amounts.own_draws, self.seed)

    def _pictures(self, source: Model, prompts: tuple[str, ...], what: str) -> Pictures:
        clean = pictures(
            source, self.original, prompts, what, self.seed, self.kept, self.progress, self.amounts.sampling
        )
        return shown(source, clean, decode=not self.one_space)


def _tensors(found: Observation) -> dict[str, Tensor]:
    return {
        **found.held.tensors("held"),
        **({} if found.taught is None else found.taught.tensors("taught")),
        "on targets": found.on_targets,
        "without": found.without,
        "with": found.with_it,
        "movement": torch.tensor([found.movement], dtype=torch.float64),
    }
