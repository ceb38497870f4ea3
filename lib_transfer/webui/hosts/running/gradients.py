"""Makes a program's networks, which were loaded for inference, differentiable for as long as a context lasts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import Tensor, nn

CHECKED = ("checkpoint", "use_checkpoint")
"""Attributes of modules of ldm and sgm that turn gradient checkpointing on.

Their implementation (ldm/modules/diffusionmodules/util.py, `CheckpointFunction`) knows only the network's own weights: an
adapter's would get no gradients.
"""


@contextmanager
def without_checkpointing(network: nn.Module) -> Iterator[None]:
    """The network without gradient checkpointing of its own; afterwards as it was."""
    with ExitStack() as stack:
        for module in network.modules():
            for name in CHECKED:
                if getattr(module, name, None) is True:
                    stack.callback(setattr, module, name, True)
                    setattr(module, name, False)
        yield


@contextmanager
def with_copied_norm_inputs(network: nn.Module) -> Iterator[None]:
    """The network with norms that keep a copy of what they are given: Forge's blocks add to it in place afterwards."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                stack.callback(module.register_forward_pre_hook(_copied).remove)
        yield


def _copied(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (given[0].clone(), *given[1:])


KERNELS, PLAIN = "comfy_kitchen", "comfy_kitchen.backends.eager.rope"
"""The package whose rotary embeddings Forge Neo's transformers use, which have no gradients, and its own in plain torch."""

ROTATIONS = ("apply_rope", "apply_rope1", "apply_rope_split_half", "apply_rope_split_half1")


@contextmanager
def with_plain_rotations() -> Iterator[None]:
    """Forge Neo's networks with rotary embeddings that have gradients; afterwards the very same functions are back."""
    plain = None
    if KERNELS in sys.modules:
        with suppress(ImportError):
            plain = importlib.import_module(PLAIN)
    with ExitStack() as stack:
        users = [it for name, it in list(sys.modules.items()) if name == KERNELS or name.startswith("backend.nn.")]
        for user in users if plain is not None else ():
            for name in ROTATIONS:
                before = vars(user).get(name)
                if before is not None and hasattr(plain, name) and before.__module__.startswith(KERNELS):
                    stack.callback(setattr, user, name, before)
                    setattr(user, name, getattr(plain, name))
        yield


@contextmanager
def without_inference_tensors(network: nn.Module) -> Iterator[None]:
    """The network with ordinary tensors in place of those made in inference mode, which no gradient goes past.

    They share their memory, so that nothing is copied; afterwards the very same tensors are back.
    """
    with ExitStack() as stack:
        for module in network.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and tensor.is_inference():
                        stack.callback(held.__setitem__, name, tensor)
                        held[name] = _alias(tensor)
        yield


def _alias(tensor: Tensor) -> Tensor:
    other = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    other.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return nn.Parameter(other, requires_grad=False) if isinstance(tensor, nn.Parameter) else other
