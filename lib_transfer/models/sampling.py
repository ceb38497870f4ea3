"""Latents that a model makes itself, so that no data are needed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lib_transfer.models.model import Model
from lib_transfer.progress import Progress, check

FIRST, LAST = 0.999, 0.02
"""Where along the noise schedule the sampling begins and ends."""

STEPS = 20
"""Of the sampling: enough for pictures that a model is asked about, which nobody looks at."""


def sample(
    model: Model, prompts: Sequence[str], seed: int, progress: Progress, *, steps: int = STEPS, guidance: float = 5.0
) -> Tensor:
    """One latent for each prompt ``(n, channels, height, width)``, by DDIM without noise (Song et al. 2021, equation 12).

    Args:
        model: runs ``2 * steps`` times per prompt (with classifier-free guidance), told run by run.
        prompts: what is made.
        seed: of the noise that it begins with.
        progress: asked before every run whether to stop.
        steps: of the sampling.
        guidance: of Ho and Salimans 2022; 1 for none, which halves the runs.
    """
    generator = torch.Generator().manual_seed(seed)
    times = torch.linspace(FIRST, LAST, steps + 1)
    made = []

    def seen(x: Tensor, now: Tensor, prompt: str) -> Tensor:
        check(progress)
        noise = model.noise(x, now[None], [prompt])
        progress.step("sampling")
        return noise

    for prompt in prompts:
        x = torch.randn((1, *model.shape), generator=generator)
        for now, then in itertools.pairwise(times):
            (a, s), (a_then, s_then) = model.schedule.mix(now[None]), model.schedule.mix(then[None])
            noise = seen(x, now, prompt)
            if guidance != 1:
                without = seen(x, now, "")
                noise = without + guidance * (noise - without)
            x = a_then * (x - s * noise) / a + s_then * noise
        made.append((x - s_then * noise) / a_then)
    return torch.cat(made)


def runs(prompts: int, steps: int = STEPS, guidance: float = 5.0) -> int:
    """How often :func:`sample` runs the model."""
    return prompts * steps * (1 if guidance == 1 else 2)
