"""What the target asks, and what the source answers: all that passes between two models that are never in memory together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.progress import Progress, check
from lib_transfer.running.apply import Changes, applied
from lib_transfer.running.inputs import Inputs, noised_inputs
from lib_transfer.running.latents import LatentMap
from lib_transfer.running.model import Model, predict
from lib_transfer.running.record import seen
from lib_transfer.running.sampling import STEPS, sample
from lib_transfer.strategies.movement import predictions
from lib_transfer.strategies.streams import Streams


@dataclass(frozen=True, eq=False)
class Questions:
    """What both models are run on.

    Attributes:
        inputs: in the target's latent space.
        latent_space: the target's.
        pictures: of the inputs without noise; None where the source has the same latent space.
    """

    inputs: Inputs
    latent_space: str
    pictures: Tensor | None


def ask(
    target: Model,
    prompts: Sequence[str],
    number: int,
    seed: int,
    latent_space: str,
    progress: Progress,
    *,
    steps: int = STEPS,
) -> Questions:
    """Inputs that the target makes itself.

    Args:
        target: samples ``number`` latents.
        prompts: taken in turn.
        number: of inputs.
        seed: of all noise.
        latent_space: the source's; pictures are made where it is another one.
        progress: asked before every run whether to stop.
        steps: of the sampling.
    """
    said = [prompts[place % len(prompts)] for place in range(number)]
    clean = sample(target, said, seed, progress, steps=steps)
    _finite(clean, "The target's samples")
    pictures = None if latent_space == target.latent_space else target.decode(clean)
    return Questions(noised_inputs(clean, said, seed + 1), target.latent_space, pictures)


def answer(
    source: Model, questions: Questions, original: Changes, progress: Progress, streams: Streams | None = None
) -> Tensor:
    """How the source moves under the original adapter, in the target's latent space.

    Args:
        source: runs twice per input.
        questions: from :func:`ask`.
        original: the adapter on its own base.
        progress: asked before every run whether to stop.
        streams: where the residual streams are put, and how they move; None where nobody needs them.
    """
    inputs, there = _translated(source, questions)
    if streams is None:
        moved = predictions(source, inputs, progress, "source, with the LoRA", original)
        moved = moved - predictions(source, inputs, progress, "source, without")
    else:
        moved = _watched(source, inputs, original, progress, streams)
    _finite(moved, "The source's movement")
    return moved if there is None else there.movement(moved)


def _watched(source: Model, inputs: Inputs, original: Changes, progress: Progress, streams: Streams) -> Tensor:
    moved = []
    for number, one in enumerate(inputs):
        check(progress)
        without, before = look(source, one, streams)
        streams.put(number, "stream", before)
        progress.step("source, without")
        check(progress)
        with applied(source.places, original):
            with_it, after = look(source, one, streams)
        streams.put(number, "moved", {name: after[name] - before[name] for name in before})
        progress.step("source, with the LoRA")
        moved.append(with_it - without)
    return torch.cat(moved)


def look(model: Model, one: Inputs, streams: Streams) -> tuple[Tensor, dict[str, Tensor]]:
    """The prediction for one input, and the residual stream behind every block."""
    found: dict[str, Tensor] = {}

    def behind(name: str, tensor: Tensor) -> None:
        found[name] = streams.chosen(name, tensor).cpu()

    with seen({}, behind, model.blocks, behind):
        return predict(model, one), found


def _translated(source: Model, questions: Questions) -> tuple[Inputs, LatentMap | None]:
    """The inputs in the source's latent space, and the map of movements back."""
    if questions.pictures is None:
        return questions.inputs, None
    asked = questions.inputs
    clean = torch.cat([source.encode(picture[None]).float().cpu() for picture in questions.pictures])
    there = LatentMap.fitted(clean, asked.clean)
    generator = torch.Generator().manual_seed(0)
    noise = LatentMap.fitted(asked.clean, clean).noise(asked.noise, generator)
    return asked.among(clean, noise), there


def _finite(values: Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise NumericError(
            f"{what} hold NaN or infinity.", hint="Run the model in a wider number format (--no-half in the WebUI)."
        )
