"""What the source teaches: its predictions, with its LoRA, for noised latents of pictures that it made with it.

Made while the source is in memory and kept on disk, because the two models are never in memory together. Noise, times and order
come from the seed alone, so that only the predictions take room.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.evaluation.kept import Kept
from lib_transfer.evaluation.losses import finite, seeded
from lib_transfer.models.apply import applied
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, predict
from lib_transfer.progress import Progress, check
from lib_transfer.update import Updates


@dataclass(frozen=True)
class Batches:
    """How much is taught, and in which order.

    Attributes:
        prompts: the prompt of each picture.
        steps: the steps of the training.
        batch: the inputs of each step.
        seed: the seed of all noise.
    """

    prompts: tuple[str, ...]
    steps: int
    batch: int
    seed: int

    @property
    def runs(self) -> int:
        """The inputs of all steps together."""
        return self.steps * self.batch

    def chosen(self, step: int) -> list[int]:
        """The pictures of a step: all of them in turn, in another order in every round."""
        number, begin = len(self.prompts), step * self.batch
        rounds = range(begin // number, (begin + self.batch - 1) // number + 1)
        order = [int(p) for r in rounds for p in torch.randperm(number, generator=seeded(self.seed, "order", r))]
        offset = begin - rounds.start * number
        return order[offset : offset + self.batch]

    def inputs(self, clean: Tensor, step: int) -> Inputs:
        """The noised inputs of a step: a time in each of ``batch`` equal stretches of the schedule, and fresh noise.

        Args:
            clean: the latents of all pictures ``(n, channels, height, width)``.
            step: the step, from 0.
        """
        chosen, chance = self.chosen(step), seeded(self.seed, "step", step)
        places = torch.randperm(self.batch, generator=chance) + torch.rand(self.batch, generator=chance)
        noise = torch.randn((self.batch, *clean.shape[1:]), generator=chance)
        prompts = tuple(self.prompts[place] for place in chosen)
        return Inputs(clean[chosen].float().cpu(), noise, places / self.batch, prompts)


def teach(source: Model, original: Updates, clean: Tensor, batches: Batches, kept: Kept, progress: Progress) -> None:
    """Keep what the source with its LoRA predicts for the noised inputs of every step.

    Half precision loses nothing: predictions are of the size of 1, and rounding one is a thousandth of what is learned from it.

    Args:
        source: the model; it runs once for every input.
        original: its LoRA.
        clean: the latents of all pictures, in the source's space.
        batches: the steps.
        kept: where predictions are kept; those that are there already are not made again.
        progress: asked before every run whether to stop; it gets a step for every run.
    """
    with applied(source.places, original):
        for step in range(batches.steps):
            if kept.has("teacher", step):
                continue
            said = []
            for some in batches.inputs(clean, step).parts(source.together):
                check(progress)
                said.append(predict(source, some))
                for _ in some.prompts:
                    progress.step("what the source predicts")
            taught = finite(torch.cat(said), "The source's predictions")
            kept.put("teacher", step, tensors={"noise": taught.half()})


def taught(batches: Batches, kept: Kept, step: int) -> Tensor:
    """What the source predicted for the inputs of a step ``(batch, channels, height, width)``.

    Raises:
        StorageError: it could not be kept, or was removed meanwhile.
    """
    return kept.need("teacher", step)["noise"].float()
