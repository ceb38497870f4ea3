"""What gradients need in a program's networks; each obstacle is first shown to be one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lib_transfer.linalg.factors import Factors
from lib_transfer.models import applied, places
from lib_transfer.update import Update
from lib_transfer.webui.hosts.running.gradients import (
    with_copied_norm_inputs,
    without_checkpointing,
    without_inference_tensors,
)


class Stingy(torch.autograd.Function):
    """Computes again on the way back, and knows no weights but those that it is told of: as ldm's does."""

    @staticmethod
    def forward(context, function, x):
        context.function, context.x = function, x
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(context, gradient):
        with torch.enable_grad():
            x = context.x.detach().requires_grad_()
            return None, torch.autograd.grad(context.function(x), x, gradient)[0]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.checkpoint = True
        self.norm, self.layer = nn.LayerNorm(4), nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return Stingy.apply(self.inner, x) if self.checkpoint else self.inner(x)

    def inner(self, x: Tensor) -> Tensor:
        x = self.layer(x) + self.shift
        n = self.norm(x)
        x += n  # as Forge's blocks do
        return x


def slope(block: Block, x: Tensor) -> Tensor:
    """The gradient of what a block returns for an adapter's ``up``."""
    up = torch.zeros(4, 1, requires_grad=True)
    changes = {"layer": Update(Factors(up, torch.ones(1, 4)))}
    with applied(places({"layer": block.layer}), changes), torch.enable_grad():
        [found] = torch.autograd.grad(block(x).sum(), [up])
    return found


def expected(block: Block, x: Tensor) -> Tensor:
    """The same without anything in place or in inference mode."""
    copy = Block()
    copy.load_state_dict({name: torch.tensor(tensor.tolist()) for name, tensor in block.state_dict().items()})
    up = torch.zeros(4, 1, requires_grad=True)
    y = copy.layer(x) + x @ torch.ones(4, 1) @ up.T + copy.shift
    [found] = torch.autograd.grad((y + copy.norm(y)).sum(), [up])
    return found


def test_a_checkpoint_of_the_networks_own_is_left_out_and_comes_back() -> None:
    block, x = Block(), torch.randn(3, 4, requires_grad=True)
    with with_copied_norm_inputs(block), pytest.raises(RuntimeError, match="not have been used"):
        slope(block, x)
    with without_checkpointing(block), with_copied_norm_inputs(block):
        assert block.checkpoint is False
        torch.testing.assert_close(slope(block, x), expected(block, x), atol=1e-5, rtol=1e-5)
    assert block.checkpoint is True


def test_a_norm_keeps_what_is_changed_in_place_afterwards() -> None:
    block, x = Block(), torch.randn(3, 4, requires_grad=True)
    block.checkpoint = False
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        slope(block, x)
    with with_copied_norm_inputs(block):
        torch.testing.assert_close(slope(block, x), expected(block, x), atol=1e-5, rtol=1e-5)
    assert not block.norm._forward_pre_hooks


def test_tensors_of_inference_mode_become_ordinary_ones_of_the_same_memory() -> None:
    with torch.inference_mode():
        block = Block()
    block.checkpoint = False
    x = torch.randn(3, 4, requires_grad=True)
    before = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    with with_copied_norm_inputs(block), pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        slope(block, x)
    with without_inference_tensors(block), with_copied_norm_inputs(block):
        for name, tensor in {**dict(block.named_parameters()), **dict(block.named_buffers())}.items():
            assert not tensor.is_inference()
            assert tensor.data_ptr() == before[name].data_ptr()
        found = slope(block, x)
    after = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    assert all(after[name] is tensor for name, tensor in before.items())
    torch.testing.assert_close(found, expected(block, x), atol=1e-5, rtol=1e-5)
