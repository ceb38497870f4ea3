"""What is seen of the source: the inputs that it makes, how it moves on them, and what of it the target needs to know.

This is all that passes between two models that are never in memory together.

The inputs are the source's own pictures, half of them made *with* the adapter. On those it has most to say, and only they show
whether the target keeps a style that is there already; the rest show where a picture begins, and what the adapter leaves alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lib_transfer.errors import NumericError
from lib_transfer.evaluation.movement import predictions
from lib_transfer.evaluation.streams import Streams
from lib_transfer.models.apply import applied
from lib_transfer.models.hooks import watched
from lib_transfer.models.inputs import Inputs, noised_inputs
from lib_transfer.models.latents import LatentMap
from lib_transfer.models.model import Model, predict
from lib_transfer.models.sampling import STEPS, sample
from lib_transfer.progress import Progress, check
from lib_transfer.update import Updates


@dataclass(frozen=True, eq=False)
class Observation:
    """What was seen of the source.

    Attributes:
        inputs: the inputs, in the source's latent space.
        movement: how the source moves on them under the original adapter, in the same space.
        missed: what the source without an adapter predicts, less the noise that is in the inputs.
        pictures: the decoded inputs without noise; None where the target has the same latent space.
    """

    inputs: Inputs
    movement: Tensor
    missed: Tensor
    pictures: Tensor | None


def observe(
    source: Model,
    original: Updates,
    prompts: Sequence[str],
    seed: int,
    latent_space: str,
    progress: Progress,
    *,
    steps: int = STEPS,
    streams: Streams | None = None,
) -> Observation:
    """Let the source make inputs with the adapter on it, and see how it moves on them.

    Args:
        source: the model; it samples a latent per input, and runs twice on each.
        original: the adapter on its own base.
        prompts: the prompt of each input.
        seed: the seed of all noise.
        latent_space: the target's latent space; pictures are decoded where it is another one.
        progress: asked before every run whether to stop.
        steps: the steps of the sampling.
        streams: where the residual streams, and how they move, are put; None where nobody needs them.
    """
    clean = _sampled(source, original, prompts, seed, progress, steps)
    _finite(clean, "The source's samples")
    pictures = None if latent_space == source.latent_space else source.decode(clean)
    inputs = noised_inputs(clean, prompts, seed + 1)
    movement, without = movement_of(source, inputs, original, progress, streams)
    return Observation(inputs, movement, without - inputs.noise, pictures)


def with_adapter(place: int) -> bool:
    """Whether the input at ``place`` is made with the adapter on the source.

    The Thue-Morse sequence: half of any run of inputs are, and half of those two, four or eight apart, so that prompts which
    repeat at such a distance are seen both ways.
    """
    return place.bit_count() % 2 == 0


def _sampled(
    source: Model, original: Updates, prompts: Sequence[str], seed: int, progress: Progress, steps: int
) -> Tensor:
    clean = torch.empty((len(prompts), *source.shape))
    kinds: tuple[tuple[bool, Updates, int], ...] = ((True, original, seed), (False, {}, seed + 2))
    for styled, adapter, its_seed in kinds:
        chosen = [place for place in range(len(prompts)) if with_adapter(place) == styled]
        if chosen:
            with applied(source.places, adapter):
                clean[chosen] = sample(source, [prompts[p] for p in chosen], its_seed, progress, steps=steps)
    return clean


def movement_of(
    source: Model, inputs: Inputs, original: Updates, progress: Progress, streams: Streams | None = None
) -> tuple[Tensor, Tensor]:
    """How ``source`` moves on ``inputs`` under an adapter, and what it says of them without; see :func:`observe`."""
    if streams is None:
        without = predictions(source, inputs, progress, "source, without")
        moved = predictions(source, inputs, progress, "source, with the LoRA", original) - without
    else:
        moved, without = _with_streams(source, inputs, original, progress, streams)
    _finite(moved, "The source's movement")
    return moved, without


def in_latents_of(observation: Observation, target: Model) -> Observation:
    """The same observation in the target's latent space."""
    inputs = observation.inputs
    if observation.pictures is None:
        return observation
    height, width = (
        mine * pixels // theirs
        for mine, pixels, theirs in zip(
            target.shape[1:], observation.pictures.shape[2:], inputs.clean.shape[2:], strict=True
        )
    )
    clean = torch.cat([target.encode(_resized(picture[None], height, width)) for picture in observation.pictures])
    clean = clean.float().cpu()
    _finite(clean, "The target's latents")
    there = LatentMap.fitted(inputs.clean, clean)
    noise = there.noise(inputs.noise, torch.Generator().manual_seed(0))
    moved, missed = there.movement(observation.movement), there.movement(observation.missed)
    return Observation(inputs.with_latents(clean, noise), moved, missed, None)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    """Pictures at the size that the model runs at."""
    if picture.shape[2:] == (height, width):
        return picture
    return functional.interpolate(picture, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _with_streams(
    source: Model, inputs: Inputs, original: Updates, progress: Progress, streams: Streams
) -> tuple[Tensor, Tensor]:
    moved, said = [], []
    for number, one in enumerate(inputs):
        check(progress)
        without, before = predict_with_streams(source, one, streams)
        streams.put(number, "stream", before)
        progress.step("source, without")
        check(progress)
        with applied(source.places, original):
            with_it, after = predict_with_streams(source, one, streams)
        streams.put(number, "moved", {name: after[name] - before[name] for name in before})
        progress.step("source, with the LoRA")
        moved.append(with_it - without)
        said.append(without)
    return torch.cat(moved), torch.cat(said)


def predict_with_streams(model: Model, one: Inputs, streams: Streams) -> tuple[Tensor, dict[str, Tensor]]:
    """The prediction for one input, and the residual stream behind every block."""
    found: dict[str, Tensor] = {}

    def behind(name: str, tensor: Tensor) -> None:
        found[name] = streams.chosen(name, tensor).cpu()

    with watched({}, behind, model.blocks, behind):
        return predict(model, one), found


def _finite(values: Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise NumericError(
            f"{what} hold NaN or infinity.", hint="Run the model in a wider number format (--no-half in the WebUI)."
        )
