"""Modules as LyCORIS trains them, and what they do to a layer: its own forward pass, none of our formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_transfer.formats.adapter import Group
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.update import Update

from .builders import accounted, save

M = "lora_unet_x"
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda out: nn.Linear(24, out),
    "square": lambda _: nn.Linear(24, 24),
    "1x1": lambda out: nn.Conv2d(24, out, 1),
    "3x3": lambda out: nn.Conv2d(24, out, 3, padding=1),
}


def layer(form: str, out: int = 36) -> Any:
    """A layer of a base with weights like those of a trained one."""
    torch.manual_seed(7)
    return LAYERS[form](out)


def trained(made: Any, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
    """What LyCORIS writes for a module after some training, rounded to ``dtype``, and the change of the layer's output."""
    generator = torch.Generator().manual_seed(11)
    for name, parameter in made.named_parameters():
        if "scale" in name:  # magnitudes stay near those of the base
            drawn = parameter.data * (1 + 0.2 * torch.randn(parameter.shape, generator=generator))
        else:
            drawn = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.data = drawn.to(dtype).float()
    tensors = {key: value.detach().to(dtype) for key, value in made.state_dict().items() if key != "scalar"}
    base = made.org_module[0]
    plain = base.forward
    made.apply_to()
    made.eval()

    def change(x: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = made(x) - plain(x)
        return result

    return tensors, change


def group_of(tensors: dict[str, Tensor], tmp_path: Path, name: str = M) -> Group:
    """The file with these tensors of the module ``name`` as the reader gives it."""
    adapter = read_adapter(save(tmp_path / "a.safetensors", {f"{name}.{key}": value for key, value in tensors.items()}))
    assert accounted(adapter)
    assert not adapter.unsupported, adapter.unsupported
    return adapter.groups[name]


def delta(update: Update) -> Tensor:
    """The change of a weight as a matrix in float64."""
    if update.factors is not None:
        assert update.factors.up.dtype == update.factors.down.dtype == torch.float32
        return update.factors.up.double() @ update.factors.down.double()
    assert update.weight is not None
    assert update.weight.dtype == torch.float32
    return update.weight.double().flatten(1)


def error_of_forward(update: Update, base: Any, change: Callable[[Tensor], Tensor]) -> float:
    """Relative error of what the update does to the layer's output, on every unit input (a kernel's weights, one by one)."""
    d = delta(update).reshape(base.weight.shape)
    torch.manual_seed(5)
    if isinstance(base, nn.Linear):
        x = torch.eye(base.in_features)
        got = x.double() @ d.T
    else:
        x = torch.randn(2, base.in_channels, 7, 7)
        got = nn.functional.conv2d(x.double(), d, padding=base.padding)
    expected = change(x).double()
    return float((got - expected).norm() / expected.norm())
