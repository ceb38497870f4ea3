"""Weights with a chosen spectrum, and the dense float64 formulas that everything is held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_transfer.linalg.subspace import Basis

SPECTRA = ("gentle", "steep", "power", "root", "spike", "layer", "cluster", "graded", "deficient", "two spikes")


def spectrum(kind: str, n: int) -> Tensor:
    i = torch.arange(n, dtype=torch.float64)
    return {
        "gentle": torch.exp(-2 * i / n),
        "steep": torch.exp(-9 * i / n),
        "power": 1 / (1 + i),
        "root": 1 / (1 + i).sqrt(),
        "spike": torch.exp(-i / n) + 39 * (i == 0),
        # A few directions above those of random numbers, as trained layers have them (Martin and Mahoney 2021).
        "layer": torch.sqrt(1 - ((i + 0.5) / n) ** 2) + 7 * torch.exp(-i / 3),
        # Directions of nearly one size, and then a gap.
        "cluster": torch.where(i < n // 2, 1 - 1e-3 * i / n, 0.05 * torch.exp(-i / n)),
        "graded": 10 ** (-6 * i / n),
        "deficient": torch.exp(-2 * i / n) * (i <= n // 3),
        "two spikes": torch.exp(-i / n) + 300 * (i == 0) + 30 * (i == 1),
    }[kind]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(dimension: int, k: int, seed: int = 0) -> Tensor:
    """A random orthonormal basis ``(dimension, k)``, float64."""
    return torch.linalg.qr(normal(dimension, k, seed=seed))[0]


def weight(values: Tensor, out: int, into: int, seed: int = 0) -> Tensor:
    """A weight ``(out, into)`` with these singular values and random directions, float64."""
    n = values.shape[0]
    return (orthonormal(out, n, seed) * values) @ orthonormal(into, n, seed + 1).T


def decayed(kind: str, out: int, into: int, seed: int = 0) -> Tensor:
    """A weight with one of the :data:`SPECTRA`; its largest entry is 1."""
    w = weight(spectrum(kind, min(out, into)), out, into, seed)
    return w / w.abs().max()


def near(w: Tensor, by: float, seed: int = 7) -> Tensor:
    """``w`` moved by ``by`` of its norm, as a fine-tune does."""
    noise = normal(*w.shape, seed=seed)
    return w + by * w.norm() * noise / noise.norm()


def matrix(basis: Basis, k: int) -> Tensor:
    """``B`` ``(dimension, k)`` in float64, by what ``combine`` makes of the unit vectors."""
    return basis.combine(torch.eye(k)).double()


def sine(a: Tensor, b: Tensor) -> float:
    """The sine of the largest angle between the spans of two orthonormal bases of as many columns, both float64."""
    return float(torch.linalg.matrix_norm(b - a @ (a.T @ b), 2))


def direct_rotation(p: Tensor, q: Tensor) -> Tensor:
    """The rotation of the range of the projector ``p`` onto that of ``q``: the polar factor of ``QP + (I-Q)(I-P)``."""
    one = torch.eye(p.shape[0], dtype=torch.float64)
    u, _, vh = torch.linalg.svd(q @ p + (one - q) @ (one - p))
    return u @ vh


def relative(got: Tensor, expected: Tensor) -> float:
    """Distance in the Frobenius norm, relative to the expected one."""
    return float((got.double() - expected).norm() / max(float(expected.norm()), math.ulp(0.0)))
