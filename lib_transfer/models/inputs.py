"""The inputs that models are run on: noised latents, times and prompts, made without any data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
