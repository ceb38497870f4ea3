"""What the source teaches: pictures that it makes with its LoRA, and what it predicts of them when they are noised.

Made while the source is in memory and kept on disk, because the two models are never in memory together. Noise, times and order
come from the seed alone, so that only the predictions take room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lib_transfer.evaluation.kept import Kept
from lib_transfer.evaluation.losses import finite, seeded
from lib_transfer.models.apply import applied
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, predict
from lib_transfer.models.sampling import STEPS, sample
from lib_transfer.progress import Progress, check
from lib_transfer.update import Updates


@dataclass(frozen=True)
class Course:
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


def pictures(
    model: Model, adapter: Updates, prompts: Sequence[str], what: str, seed: int, kept: Kept, progress: Progress,
    steps: int = STEPS,
) -> Tensor:  # fmt: skip
    """Latents that a model makes ``(n, channels, height, width)``, each kept as soon as it is made.

    Args:
        model: the model; it runs ``2 * steps`` times for each prompt.
        adapter: the adapter that is on it.
        prompts: a prompt for each.
        what: the name that they are kept under.
        seed: the seed of the noise that the sampling begins with.
        kept: where they are kept, and found again.
        progress: asked before every run whether to stop; it gets a step for every run.
        steps: the sampling steps of each.

    Raises:
        NumericError: the model makes NaN or infinity.
    """

    def one(place: int, prompt: str) -> Tensor:
        own = int(torch.randint(2**31, (), generator=seeded(seed, what, place)))
        with applied(model.places, adapter):
            return finite(sample(model, [prompt], own, progress, steps=steps), "The model's samples").float().cpu()

    made = [
        kept.made(what, place, make=lambda place=place, prompt=prompt: one(place, prompt))  # type: ignore[misc]
        for place, prompt in enumerate(prompts)
    ]
    return torch.cat(made)


def teach(source: Model, original: Updates, clean: Tensor, course: Course, kept: Kept, progress: Progress) -> None:
    """Keep what the source with its LoRA predicts for the noised inputs of every step.

    Half precision loses nothing: predictions are of the size of 1, and rounding one is a thousandth of what is learned from it.

    Args:
        source: the model; it runs once for every input.
        original: its LoRA.
        clean: the latents of all pictures, in the source's space.
        course: the steps.
        kept: where predictions are kept; those that are there already are not made again.
        progress: asked before every run whether to stop; it gets a step for every run.
    """
    with applied(source.places, original):
        for step in range(course.steps):
            if kept.has("teacher", step):
                continue
            said = []
            for one in course.inputs(clean, step):
                check(progress)
                said.append(predict(source, one))
                progress.step("what the source predicts")
            taught = finite(torch.cat(said), "The source's predictions")
            kept.put("teacher", step, tensors={"noise": taught.half()})


def taught(course: Course, kept: Kept, step: int) -> Tensor:
    """What the source predicted for the inputs of a step ``(batch, channels, height, width)``.

    Raises:
        StorageError: it could not be kept, or was removed meanwhile.
    """
    return kept.need("teacher", step)["noise"].float()


def encoded(model: Model, seen: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures ``(n, 3, height, width)`` in a model's own latents, each encoded by itself at the size that it runs at.

    Args:
        model: the model.
        seen: the pictures, from -1 to 1.
        size: height and width in pixels that they are given to it at.
    """

    def resized(picture: Tensor) -> Tensor:
        if picture.shape[2:] == size:
            return picture
        return functional.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)

    made = torch.cat([model.encode(resized(picture[None])).float().cpu() for picture in seen])
    return finite(made, "The model's latents")


def decoded(model: Model, clean: Tensor) -> Tensor:
    """The pictures that latents stand for, one after the other ``(n, 3, height, width)``, float32 on the CPU."""
    return torch.cat([model.decode(latent[None]).float().cpu() for latent in clean])
