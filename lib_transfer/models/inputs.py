"""The inputs that models are run on: noised latents, times and prompts, made without any data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """``n`` inputs of a model.

    Attributes:
        clean: the latents without noise ``(n, channels, height, width)``, float32, on the CPU.
        noise: the noise, of the same shape, standard normal.
        times: ``(n,)`` from 0 to 1, the place of each input along its noise schedule; 1 is nearly all noise.
        prompts: the prompt of each input.
    """

    clean: Tensor
    noise: Tensor
    times: Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Inputs]:
        """Every input by itself, a batch of one."""
        return (self.only([place]) for place in range(len(self)))

    def parts(self, size: int) -> Iterator[Inputs]:
        """All inputs in their order, ``size`` at a time; the last part may have fewer."""
        places = range(len(self))
        return (self.only(places[begin : begin + size]) for begin in range(0, len(self), size))

    def only(self, chosen: Sequence[int]) -> Inputs:
        """The inputs at the places ``chosen``."""
        index = torch.tensor(list(chosen), dtype=torch.long)
        prompts = tuple(self.prompts[place] for place in chosen)
        return Inputs(self.clean[index], self.noise[index], self.times[index], prompts)

    def with_latents(self, clean: Tensor, noise: Tensor) -> Inputs:
        """The same times and prompts in another latent space."""
        return replace(self, clean=clean, noise=noise)


def spread_times(number: int, first: float = 0.15, last: float = 0.9) -> Tensor:
    """``number`` times, spread evenly; the ends, where a model has to guess nothing or everything, are left out."""
    return torch.linspace(first, last, number) if number > 1 else torch.full((number,), (first + last) / 2)


def noised_inputs(clean: Tensor, prompts: Sequence[str], seed: int) -> Inputs:
    """Inputs from latents, each with a time of its own and noise from ``seed``.

    Neighbours differ in time by a stride that is prime to their number, so that every part of the list has early and late ones.
    """
    number = clean.shape[0]
    generator = torch.Generator().manual_seed(seed)
    stride = next(s for s in (5, 7, 11, 13, 17, 1) if number % s or number == 1)
    order = torch.tensor([place * stride % number for place in range(number)])
    noise = torch.randn(clean.shape, generator=generator)
    return Inputs(clean.float().cpu(), noise, spread_times(number)[order], tuple(prompts))
