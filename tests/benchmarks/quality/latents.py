"""Linear autoencoders of fixed numbers: every patch of 2x2 pixels becomes one position of a latent.

Like a JPEG they keep the brightness whole and less of the colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CHANNELS = 6
PATCH = 2


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """Latents ``matrix @ patch``.

    Attributes:
        name: two models whose words are equal share their latents.
        matrix: ``(6, 12)``.
    """

    name: str
    matrix: Tensor

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents ``(n, 6, h / 2, w / 2)`` of pictures ``(n, 3, h, w)``."""
        return torch.einsum("cp,nphw->nchw", self.matrix, functional.pixel_unshuffle(pixels, PATCH))

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of least norm that have these latents."""
        back = torch.linalg.pinv(self.matrix)
        return functional.pixel_shuffle(torch.einsum("pc,nchw->nphw", back, latents), PATCH)


def autoencoder(name: str) -> Autoencoder:
    """``jpeg``, or ``mixed``: five of the same six dimensions and one other, mixed and scaled anew."""
    brightness, warm, cool = (
        functional.normalize(torch.tensor(c), dim=0) for c in ([1.0, 1.0, 1.0], [1.0, -0.5, -0.5], [0.0, 1.0, -1.0])
    )
    mean, across, down, both = (
        torch.tensor(p) / 2
        for p in ([1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, 1.0])
    )
    kept = [(brightness, mean, 0.5), (warm, mean, 0.9), (cool, mean, 0.9), (brightness, across, 2.0)]
    kept += [(brightness, down, 2.0), (brightness, both, 3.0)]
    if name == "mixed":
        kept[-1] = (warm, down, 2.0)
    matrix = torch.stack([scale * torch.outer(colour, detail).flatten() for colour, detail, scale in kept])
    if name == "mixed":
        generator = torch.Generator().manual_seed(6)
        turn, _ = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=generator))
        matrix = turn @ matrix
    return Autoencoder(name, matrix)
