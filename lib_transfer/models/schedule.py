"""The noise schedule of a base, and what its network predicts, as noise.

``x_t = a(t) x_0 + s(t) noise``. All predictions are compared as predictions of the noise (Ho et al. 2020, equation 12): for the
velocity ``v = a noise - s x_0`` (Salimans and Ho 2022) it is ``a v + s x_t``, for a flow ``u = noise - x_0`` with
``a = 1 - sigma, s = sigma`` (Liu et al. 2023) ``x_t + a u``, and for the picture ``x_0`` itself ``(x_t - a x_0) / s``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["noise", "velocity", "flow", "picture"]


def shifted(times: Tensor, shift: float) -> Tensor:
    """``sigma = shift t / (1 + (shift - 1) t)``: more pixels take more noise to hide (Esser et al. 2024, equation 23)."""
    return shift * times / (1 + (shift - 1) * times)


def shift_at(time: float, sigma: float) -> float:
    """The shift that takes ``time`` to ``sigma``, both between 0 and 1: the inverse of :func:`shifted`."""
    return sigma * (1 - time) / (time * (1 - sigma))


@dataclass(frozen=True, eq=False)
class Schedule:
    """How a base mixes picture and noise.

    Attributes:
        alphas_cumprod: ``a(t)^2`` at every step of the training; None for flows, where ``a = 1 - sigma`` and ``s = sigma``.
        prediction: what the network predicts.
        shift: how far the times of a flow are shifted to noise; see :func:`shifted`.
    """

    alphas_cumprod: Tensor | None
    prediction: Prediction = "noise"
    shift: float = 1.0

    @classmethod
    def stable_diffusion(cls, prediction: Prediction = "noise") -> Schedule:
        """1000 steps, ``beta`` from 0.00085 to 0.012, evenly in its root (CompVis/stable-diffusion, v1-inference.yaml)."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        return cls((1 - betas).cumprod(0), prediction)

    def steps(self, times: Tensor) -> Tensor:
        """The times as the network expects them: numbers of training steps, or for a flow the share ``sigma`` of noise."""
        if self.alphas_cumprod is None:
            return shifted(times, self.shift)
        return (times * (len(self.alphas_cumprod) - 1)).round().long()

    def mix(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """``a`` and ``s`` at ``times`` ``(n,)``, each ``(n, 1, 1, 1)``."""
        if self.alphas_cumprod is None:
            s = self.steps(times)
            a = 1 - s
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
        if self.prediction == "picture":
            return (noised - a * predicted) / s
        return noised + a * predicted if self.prediction == "flow" else predicted
