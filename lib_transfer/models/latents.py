"""Latent spaces, and the linear map from one to another that fits best on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lib_transfer.linalg.ridge import Moments, ridge_map

LATENT_SPACES = {
    **dict.fromkeys(("sd1", "sd2"), "sd"),
    **dict.fromkeys(("sdxl", "auraflow"), "sdxl"),
    **dict.fromkeys(("sd3-medium", "sd3.5-medium", "sd3.5-large"), "sd3"),
    **dict.fromkeys(("flux-dev", "z-image", "lumina-2"), "flux"),
    **dict.fromkeys(("flux2-klein-4b", "flux2-klein-9b", "flux2-dev", "ernie-image"), "flux2"),
    **dict.fromkeys(("anima", "qwen-image", "krea-2", "wan-14b", "wan-1.3b"), "wan2.1"),
    "wan-5b": "wan2.2",
}
"""The autoencoder of each family of architectures.

Those of one name are one autoencoder, with the same scale and shift of its latents: Z-Image and Lumina 2 were trained on that
of Flux.1, Ernie-Image on that of Flux.2, and Qwen-Image's, which Anima and Krea 2 use, has Wan 2.1's latents.
"""


class LatentSpace(NamedTuple):
    """What the latents of an autoencoder are like, as networks see them.

    Attributes:
        channels: their channels; Flux.2's 32 lie in patches of 2 x 2.
        factor: width in pixels of one latent.
        side: latents along an edge that a network takes together, so that a picture has a multiple of them.
    """

    channels: int
    factor: int
    side: int = 1


SPACES = {
    "sd": LatentSpace(4, 8),
    "sdxl": LatentSpace(4, 8),
    "sd3": LatentSpace(16, 8, 2),
    "flux": LatentSpace(16, 8, 2),
    "flux2": LatentSpace(128, 16),
    "wan2.1": LatentSpace(16, 8, 2),
    "wan2.2": LatentSpace(48, 16, 2),
}
"""The latents of each autoencoder."""


@dataclass(frozen=True, eq=False)
class LatentMap:
    """The map ``z_there = M z_here + b``, the same at every position.

    Attributes:
        matrix: ``M``, ``(channels there, channels here)``.
        offset: ``b``, ``(channels there,)``.
        size: height and width of the latents there.
    """

    matrix: Tensor
    offset: Tensor
    size: tuple[int, int]

    @classmethod
    def fitted(cls, here: Tensor, there: Tensor) -> LatentMap:
        """The least-squares map between latents of the same pictures, ``(n, channels, height, width)`` each."""
        size = (int(there.shape[2]), int(there.shape[3]))
        x, y = _rows(_resized(here, size)), _rows(there)
        x = torch.cat([x, torch.ones(x.shape[0], 1)], dim=1)
        moments = Moments(x.shape[1], y.shape[1])
        moments.add(x, y)
        found = ridge_map(moments, 1e-6).T.float()
        return cls(found[:, :-1], found[:, -1], size)

    def movement(self, moved: Tensor) -> Tensor:
        """The difference of latents ``(n, channels, height, width)`` in the other space, which has no offset."""
        resized = _resized(moved, self.size)
        return torch.einsum("tc,nchw->nthw", self.matrix, resized)

    def noise(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        """White noise in the other space, as much of it as possible mapped from ``noise``.

        The polar factor of the map keeps the norm of what it can map; the rest is drawn from ``generator``.
        """
        u, _, vh = torch.linalg.svd(self.matrix, full_matrices=False)
        polar = u @ vh
        resized = _white(noise, self.size, generator)
        mapped = torch.einsum("tc,nchw->nthw", polar, resized)
        fresh = torch.randn(mapped.shape, generator=generator)
        return mapped + fresh - torch.einsum("tc,nchw->nthw", polar @ polar.T, fresh)


def _rows(latents: Tensor) -> Tensor:
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).float()


def _resized(latents: Tensor, size: tuple[int, int]) -> Tensor:
    return (
        latents
        if latents.shape[2:] == size
        else functional.interpolate(latents, size, mode="bilinear", align_corners=False)
    )


def _white(noise: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Noise of another size; between sizes there is no noise in common that would be white in both."""
    if noise.shape[2:] == size:
        return noise
    return torch.randn((*noise.shape[:2], *size), generator=generator)
