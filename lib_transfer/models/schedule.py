"""The noise schedule of a base, and what its network predicts, as noise.

``x_t = a(t) x_0 + s(t) noise``. All predictions are compared as predictions of the noise (Ho et al. 2020, equation 12): for the
velocity ``v = a noise - s x_0`` (Salimans and Ho 2022) it is ``a v + s x_t``, and for a flow ``u = noise - x_0`` with
``a = 1 - t, s = t`` (Liu et al. 2023) ``x_t + a u``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["noise", "velocity", "flow"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """How a base mixes picture and noise.

    Attributes:
        alphas_cumprod: ``a(t)^2`` at every step of the training; None for flows, where ``a = 1 - t`` and ``s = t``.
        prediction: what the network predicts.
    """

    alphas_cumprod: Tensor | None
    prediction: Prediction = "noise"

    @classmethod
    def stable_diffusion(cls, prediction: Prediction = "noise") -> Schedule:
        """1000 steps, ``beta`` from 0.00085 to 0.012, evenly in its root (CompVis/stable-diffusion, v1-inference.yaml)."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        return cls((1 - betas).cumprod(0), prediction)

    def steps(self, times: Tensor) -> Tensor:
        """The times as the network expects them: numbers of training steps, or for a flow the times themselves."""
        if self.alphas_cumprod is None:
            return times
        return (times * (len(self.alphas_cumprod) - 1)).round().long()

    def mix(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """``a`` and ``s`` at ``times`` ``(n,)``, each ``(n, 1, 1, 1)``."""
        if self.alphas_cumprod is None:
            a, s = 1 - times, times
        else:
            kept = self.alphas_cumprod[self.steps(times).cpu()]
            a, s = kept.sqrt().float(), (1 - kept).sqrt().float()
        return a.reshape(-1, 1, 1, 1), s.reshape(-1, 1, 1, 1)

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The noised latents ``x_t`` of ``clean`` ``(n, channels, height, width)`` at ``times`` ``(n,)``."""
        a, s = self.mix(times)
        return a * clean + s * noise

    def as_noise(self, predicted: Tensor, noised: Tensor, times: Tensor) -> Tensor:
        """The network's prediction for ``x_t`` as a prediction of the noise."""
        a, s = self.mix(times)
        if self.prediction == "velocity":
            return a * predicted + s * noised
        return noised + a * predicted if self.prediction == "flow" else predicted
