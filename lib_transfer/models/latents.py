"""From one latent space to another: the linear map that fits best on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lib_transfer.linalg.ridge import Moments, ridge_map


@dataclass(frozen=True, eq=False)
class LatentMap:
    """``z_there = M z_here + b`` at every position.

    Attributes:
        matrix: ``(channels there, channels here)``.
        offset: ``(channels there,)``.
        size: ``(height, width)`` of the latents there.
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
        """A difference of latents ``(n, channels, height, width)``, there: without the offset."""
        resized = _resized(moved, self.size)
        return torch.einsum("tc,nchw->nthw", self.matrix, resized)

    def noise(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Noise that is white there, and as much as it can be the noise here.

        The polar factor of the map keeps the length of what it can carry; what it cannot is made anew.
        """
        u, _, vh = torch.linalg.svd(self.matrix, full_matrices=False)
        turn = u @ vh
        resized = _white(noise, self.size, generator)
        carried = torch.einsum("tc,nchw->nthw", turn, resized)
        fresh = torch.randn(carried.shape, generator=generator)
        return carried + fresh - torch.einsum("tc,nchw->nthw", turn @ turn.T, fresh)


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
