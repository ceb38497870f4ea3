"""Denoising losses: how well a model knows pictures, measured with noise that is known.

    L(e; x) = mean over tau and noise of |e(x_tau, p) - noise|^2

with every prediction taken as one of the noise (Ho et al. 2020, equation 14), and ``tau`` spread evenly over the schedule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.models.apply import applied
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, predict
from lib_transfer.progress import Progress, check
from lib_transfer.update import Updates


def seeded(*parts: object) -> torch.Generator:
    """Chance that depends on ``parts`` alone."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def stratified_times(number: int, generator: torch.Generator) -> Tensor:
    """``number`` times from 0 to 1 ``(number,)``, one in the middle of each of as many equal stretches, in random order."""
    return (torch.randperm(number, generator=generator) + 0.5) / number


def probes(clean: Tensor, prompts: Sequence[str], draws: int, seed: int) -> Inputs:
    """Noised inputs that losses are taken on: ``draws`` of each picture. Two models with latents of one shape get the same.

    Args:
        clean: latents ``(n, channels, height, width)``.
        prompts: the prompt of each.
        draws: how many times and noises each picture gets; the result has ``n * draws`` inputs.
        seed: the seed of times and noise.
    """
    every = clean.float().cpu().repeat(draws, 1, 1, 1)
    times = stratified_times(len(every), seeded(seed, "times of probes"))
    noise = torch.randn(every.shape, generator=seeded(seed, "noise of probes"))
    return Inputs(every, noise, times, tuple(prompts) * draws)


def predictions(model: Model, inputs: Inputs, progress: Progress, what: str, updates: Updates | None = None) -> Tensor:
    """What ``model`` says of every input ``(n, channels, height, width)``, with an adapter on it if given; a run for each.

    Args:
        model: the model; it runs ``len(inputs)`` times.
        inputs: the inputs, as many of which are run at once as suits the model.
        progress: asked before every run whether to stop; it gets a step after it.
        what: a few words on what the runs are for.
        updates: the adapter.

    Raises:
        NumericError: the model gives NaN or infinity.
    """
    said = []
    with applied(model.places, updates or {}):
        for some in inputs.parts(model.together):
            check(progress)
            said.append(predict(model, some))
            for _ in some.prompts:
                progress.step(what)
    return finite(torch.cat(said), "The model's predictions")


def losses(predicted: Tensor, noise: Tensor) -> Tensor:
    """The denoising loss of every input, ``(n,)`` float64: the mean square of what is missed of the noise."""
    return (predicted.double() - noise.double()).square().flatten(1).mean(1)


def finite(values: Tensor, what: str) -> Tensor:
    """``values``, all of which are numbers.

    Raises:
        NumericError: one is NaN or infinity.
    """
    if not bool(torch.isfinite(values).all()):
        raise NumericError(
            f"{what} hold NaN or infinity.", hint="Run the model in a wider number format (--no-half in the WebUI)."
        )
    return values
