"""Latent spaces."""

from __future__ import annotations

LATENT_SPACES = {"sd1": "sd", "sd2": "sd", "sdxl": "sdxl"}
"""The autoencoder of each family of architectures that can be run."""
