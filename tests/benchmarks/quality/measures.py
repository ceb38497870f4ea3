"""What an adapter is worth on a base, by the truth: pictures of its domain in the style, which no transfer ever sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib_transfer.models import Model, applied
from lib_transfer.models.sampling import FIRST, LAST
from lib_transfer.update import Updates
from tests.benchmarks.quality import pictures
from tests.benchmarks.quality.family import Base

HELD_OUT = 256
"""Pictures that losses are taken on."""

SAMPLES = 32
STEPS, GUIDANCE = 20, 3.0
"""Pictures that are made with an adapter, and how."""

DELTA = 0.5
"""The strength of Delta Sampling, its paper's."""


@torch.no_grad()
def loss(base: Base, changes: Updates, domain: str, style: str, generator: torch.Generator) -> float:
    """The denoising loss with an adapter, on held-out pictures of the domain in the style."""
    shown = pictures.draw(HELD_OUT, generator, domain, style)
    noised, noise, times = _noised(base, shown, generator)
    with applied(base.running().places, changes):
        said = base(noised, base.schedule.steps(times), shown.prompts)
    return float((said - noise).square().mean())


@torch.no_grad()
def moved(base: Base, changes: Updates, domain: str, generator: torch.Generator) -> float:
    """How far an adapter moves what is predicted where its word is not asked for: a mean square."""
    shown = pictures.draw(HELD_OUT, generator, domain)
    noised, _, times = _noised(base, shown, generator)
    steps = base.schedule.steps(times)
    without = base(noised, steps, shown.prompts)
    with applied(base.running().places, changes):
        return float((base(noised, steps, shown.prompts) - without).square().mean())


def styled(made: Tensor, domain: str, style: str, seed: int) -> float:
    """How much of the style pictures show: 0 for what the base draws without it, 1 for all of it, to the pixel.

        <made - x, y - x> / |y - x|^2,   x, y: the picture that the prompt asks for, without and with the style

    Args:
        made: the pictures made of ``prompts(SAMPLES, seed, style)``.
        domain: of the base.
        style: of the adapter.
        seed: of the prompts.
    """
    x, y = (
        pictures.draw(len(made), torch.Generator().manual_seed(seed), domain, it, exact=True).pixels
        for it in (None, style)
    )
    return float(((made - x) * (y - x)).sum() / (y - x).square().sum())


@torch.no_grad()
def samples(base: Base, changes: Updates, prompts: Sequence[str], seed: int) -> Tensor:
    """Pictures ``(n, 3, 16, 16)`` with an adapter, all prompts at once."""
    model = base.running()
    with applied(model.places, changes):
        return _denoised(model, model.noise, prompts, seed)


@torch.no_grad()
def delta_samples(target: Base, source: Base, original: Updates, prompts: Sequence[str], seed: int) -> Tensor:
    """Pictures of the target without an adapter, moved at every step as the LoRA moves its own base.

    Delta Sampling (arXiv 2512.03056): ``e_t + 0.5 (e_sL - e_s)``; three models run at every step of every picture.
    """
    ours, theirs = target.running(), source.running()

    def noise(noised: Tensor, times: Tensor, said: Sequence[str]) -> Tensor:
        before = theirs.noise(noised, times, said)
        with applied(theirs.places, original):
            after = theirs.noise(noised, times, said)
        return ours.noise(noised, times, said) + DELTA * (after - before)

    return _denoised(ours, noise, prompts, seed)


def _denoised(
    model: Model, noise_in: Callable[[Tensor, Tensor, Sequence[str]], Tensor], prompts: Sequence[str], seed: int
) -> Tensor:
    """Pictures by DDIM (Song et al. 2021, equation 12) with guidance."""
    empty = tuple("" for _ in prompts)
    x = torch.randn((len(prompts), *model.shape), generator=torch.Generator().manual_seed(seed))
    for now, then in itertools.pairwise(torch.linspace(FIRST, LAST, STEPS + 1)):
        (a, s), (a_then, s_then) = model.schedule.mix(now[None]), model.schedule.mix(then[None])
        told, untold = noise_in(torch.cat([x, x]), now.expand(2 * len(prompts)), (*prompts, *empty)).chunk(2)
        noise = untold + GUIDANCE * (told - untold)
        clean = (x - s * noise) / a
        x = a_then * clean + s_then * noise
    return model.decode(clean).clamp(-1, 1)


def _noised(base: Base, shown: pictures.Pictures, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The noised latents of pictures, the noise, and the times, which are spread evenly."""
    latents = base.autoencoder.encode(shown.pixels)
    noise = torch.randn(latents.shape, generator=generator)
    times = (torch.randperm(len(shown), generator=generator) + 0.5) / len(shown)
    return base.schedule.noised(latents, noise, times), noise, times
