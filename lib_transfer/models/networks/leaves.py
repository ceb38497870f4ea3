"""Layers of torch that hold a checkpoint's weights, found by their names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from lib_transfer.errors import UnsupportedError

M = TypeVar("M", bound=nn.Module)


class Leaves:
    """The layers of a network, by path.

    Args:
        found: the layers, by their path in the checkpoint.
        at: the path that names are relative to; it ends with a dot, or is empty.
    """

    def __init__(self, found: Mapping[str, nn.Module], at: str = "") -> None:
        self._found, self._at = found, at

    def __contains__(self, name: str) -> bool:
        """Whether there is such a layer, or one below it."""
        path = self._at + name
        return path in self._found or any(other.startswith(f"{path}.") for other in self._found)

    def below(self, name: str) -> Leaves:
        """The layers below ``name``."""
        path = f"{self._at}{name}."
        return Leaves({key: layer for key, layer in self._found.items() if key.startswith(path)}, path)

    def numbers(self) -> list[int]:
        """The whole numbers that the layers here begin with, in order."""
        return sorted({int(first) for key in self._found if (first := key[len(self._at) :].split(".")[0]).isdigit()})

    def linear(self, name: str) -> nn.Linear:
        """A linear layer."""
        return self._of(name, nn.Linear)

    def convolution(self, name: str) -> nn.Conv2d:
        """A convolution."""
        return self._of(name, nn.Conv2d)

    def mixing(self, name: str) -> nn.Linear | nn.Conv2d:
        """A layer that mixes channels alone: linear, or a convolution of one pixel."""
        layer = self._of(name, nn.Module)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return layer

    def norm(self, name: str, eps: float, groups: int | None = None) -> nn.LayerNorm | nn.GroupNorm:
        """A normalisation over the last axis, or over groups of channels."""
        given = self._of(name, nn.LayerNorm)
        if groups is None:
            given.eps = eps
            return given
        width = given.normalized_shape[0]
        # Tiny models made for tests may have fewer channels than there are groups.
        layer = nn.GroupNorm(math.gcd(groups, width), width, eps)
        layer.weight, layer.bias = given.weight, given.bias
        return layer

    def embedding(self, name: str) -> nn.Embedding:
        """The embedding ``name``: a table of vectors."""
        return self._of(name, nn.Embedding)

    def _of(self, name: str, kind: type[M]) -> M:
        layer = self._found.get(self._at + name)
        if not isinstance(layer, kind):
            raise UnsupportedError(f"The checkpoint has no {self._at}{name}, so the model cannot be run.")
        return layer


def layer(kind: str, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer with these very tensors.

    Args:
        kind: ``linear``, ``convolution``, ``norm`` or ``embedding``.
        weight: the weight, in the layer's own shape: ``(out, in)``, ``(out, in, kernel, kernel)``,
            ``(features,)`` or ``(rows, width)``.
        bias: the bias ``(out,)``; None where the layer has none.
    """
    out = weight.shape[0]
    with torch.device("meta"):
        made: nn.Module
        if kind == "linear":
            made = nn.Linear(weight.shape[1], out, bias=bias is not None)
        elif kind == "convolution":
            kernel = int(weight.shape[2])
            made = nn.Conv2d(weight.shape[1], out, kernel, padding=kernel // 2, bias=bias is not None)
        elif kind == "norm":
            made = nn.LayerNorm(out)
        else:
            made = nn.Embedding(out, weight.shape[1])
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    elif kind == "norm":
        made.bias = nn.Parameter(torch.zeros_like(weight), requires_grad=False)
    return made
