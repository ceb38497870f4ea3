"""Latent spaces."""

from __future__ import annotations

from typing import NamedTuple

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
