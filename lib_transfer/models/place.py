"""Where in a running model the weight of a module of the checkpoint lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lib_transfer.update import Rows


@dataclass(frozen=True)
class Place:
    """One module of the checkpoint, in the model that was built from it.

    Attributes:
        module: the object that holds the weight.
        kind: ``linear`` and ``convolution`` are called with what the weight is applied to, so that a change can be added
            to what they return. Of ``other`` ones (normalisations, attentions that use their weights themselves) the weight
            is exchanged.
        weight, bias: names of its parameters.
        rows: which rows of the weight, and of what the module returns, are meant; None for all.
    """

    module: nn.Module
    kind: Literal["linear", "convolution", "other"]
    weight: str = "weight"
    bias: str = "bias"
    rows: Rows | None = None


def places(names: Mapping[str, nn.Module]) -> dict[str, Place]:
    """The places of ordinary torch modules, by the canonical names they are given under."""
    return {name: Place(module, _kind(module)) for name, module in names.items()}


def _kind(module: nn.Module) -> Literal["linear", "convolution", "other"]:
    if isinstance(module, nn.Linear):
        return "linear"
    return "convolution" if isinstance(module, nn.Conv2d) else "other"
