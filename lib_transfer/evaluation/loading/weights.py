"""The weights of a checkpoint, read one by one into a network that was made without any."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib_transfer.architecture.layout import Layout
from lib_transfer.architecture.module import Module
from lib_transfer.conversion.weights import read_weight
from lib_transfer.errors import UnsupportedError
from lib_transfer.library.base import Base


def paths_of(base: Base, layout: Layout, style: str) -> dict[str, str]:
    """Where the modules that a checkpoint has of one part are in a network: path there by canonical name.

    Args:
        base: the checkpoint.
        layout: the part.
        style: the style of the network's paths, ``diffusers`` or ``hf``.
    """
    prefix = layout.key_layouts[0].prefix
    return {
        prefix + slot.path: stored.weight.removesuffix(".weight")
        for slot in layout.slots()
        for stored in slot.stored_as(style)[:1]
        if prefix + slot.path in base.by_name
    }


def filled(
    base: Base, network: nn.Module, paths: Mapping[str, str], device: torch.device, dtype: torch.dtype
) -> dict[str, nn.Module]:
    """Give a network the weights of a checkpoint; blocks that the checkpoint lacks are taken out of it.

    Args:
        base: the checkpoint.
        network: a network on torch's device ``meta``.
        paths: what :func:`paths_of` gave.
        device, dtype: where the weights go, and their number format there.

    Returns:
        The network's modules by canonical name.

    Raises:
        UnsupportedError: the network needs a weight that is not there, or one of another shape.
        BadFileError, StorageError: a weight cannot be read.
    """
    found = {name: network.get_submodule(path) for name, path in paths.items()}
    prune(network, paths.values())
    for name, module in found.items():
        own = base.by_name[name]
        weight, bias = read_weight(base.checkpoint, own).reshape(own.shape), _bias(base, own)
        put(module, weight, bias, device, dtype, f"{base.path.name}: {own.weight}")
    need_all(network, base.path.name)
    return found


def put(
    module: nn.Module, weight: Tensor, bias: Tensor | None, device: torch.device, dtype: torch.dtype, called: str
) -> None:
    """Give a module its weight ``(out, in, ...)`` and bias ``(out,)``; without one it has none, a normalisation zeros.

    Raises:
        UnsupportedError: the weight has another shape; ``called`` says which.
    """
    expected = tuple(getattr(module, "weight").shape)  # noqa: B009 - torch's type of an attribute is a union
    if weight.shape != expected:
        raise UnsupportedError(
            f"{called} has the shape {tuple(weight.shape)}, where {expected} belongs, so the model cannot be run."
        )
    if bias is None and isinstance(module, nn.LayerNorm | nn.GroupNorm):
        bias = torch.zeros(weight.shape[0])
    module.weight = nn.Parameter(weight.to(device, dtype), requires_grad=False)
    module.register_parameter(
        "bias", None if bias is None else nn.Parameter(bias.to(device, dtype), requires_grad=False)
    )


def need_all(network: nn.Module, name: str) -> None:
    """Raise unless every weight of a network was given.

    Raises:
        UnsupportedError: one was not; the message says which file, ``name``, lacks it.
    """
    missing = [path for path, parameter in network.named_parameters() if parameter.is_meta]
    if missing:
        raise UnsupportedError(
            f"{name} has no weight for {missing[0]} ({len(missing)} are missing), so the model cannot be run.",
            hint="The names are those of diffusers and transformers.",
        )


def prune(network: nn.Module, present: Collection[str]) -> None:
    """Take out of a network the residual blocks, attentions and transformer blocks that have no module in ``present``."""
    there = {".".join(steps[:n]) for path in present for steps in [path.split(".")] for n in range(1, len(steps))}
    for path, blocks in list(network.named_modules()):
        kind = path.rpartition(".")[2]
        if not isinstance(blocks, nn.ModuleList) or kind not in ("resnets", "attentions", "transformer_blocks"):
            continue
        for number in reversed(range(len(blocks))):
            if f"{path}.{number}" in there:
                continue
            if kind == "transformer_blocks":
                del blocks[number]
            else:
                # Each residual block is called in a pair with its attention, so something has to be in its place.
                blocks[number] = Unchanged() if kind == "resnets" else UnchangedTuple()


class Unchanged(nn.Module):
    """In place of a residual block that is not there."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        """``x`` itself."""
        return x


class UnchangedTuple(Unchanged):
    """In place of an attention that is not there, which returns a tuple."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        """``x`` alone in a tuple."""
        return (x,)


def _bias(base: Base, module: Module) -> Tensor | None:
    if module.bias is None:
        return None
    rows: tuple[tuple[int, int] | None, ...] = module.rows or (None,)
    return torch.cat([base.checkpoint.read(module.bias, part, torch.float32) for part in rows])
