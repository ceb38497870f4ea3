"""A small UNet in the layout of Stable Diffusion 2: what the unrelated bases are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

WIDTHS = (24, 32, 32, 32)

TRIMMED = (
    *(f"down_blocks.3.resnets.{i}" for i in range(2)),
    *(f"up_blocks.0.resnets.{i}" for i in range(3)),
    "down_blocks.2.downsamplers.0",
    "up_blocks.0.upsamplers.0",
)
"""What it lacks: pictures this small have no use for a fourth resolution."""

WITHOUT_ATTENTION = tuple(f"up_blocks.{i}.attentions.1" for i in range(1, 4))


class UNet(nn.Module):
    """diffusers' UNet under its own names, called like every network here."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, part in network.named_children():
            self.add_module(name, part)
        self._run = [network]  # in a list, so that its weights are not listed twice

    def forward(self, noised: Tensor, steps: Tensor, words: Tensor) -> Tensor:
        """The noise in ``noised`` ``(n, channels, side, side)`` at ``steps`` ``(n,)``, of words ``(n, 6, context)``."""
        predicted: Tensor = self._run[0](noised, steps, words, return_dict=False)[0]
        return predicted


def unet(channels: int, side: int, context: int) -> UNet:
    """Four resolutions, other widths than the transformer's, linear layers around the attentions."""
    network: Any = UNet2DConditionModel(  # type: ignore[no-untyped-call]
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        attention_head_dim=2,
        norm_num_groups=8,
        sample_size=side,
        block_out_channels=WIDTHS,
        cross_attention_dim=context,
        use_linear_projection=True,
    )
    _cut(network, TRIMMED, _Left)
    _cut(network, WITHOUT_ATTENTION, _Gone)
    return UNet(network)


class _Gone(nn.Module):
    """In place of an attention that was cut out: what comes in goes on."""

    def forward(self, stream: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        """The stream as it is, in the form that diffusers expects."""
        return (stream,)


class _Left(nn.Module):
    """In place of another part that was cut out: what comes in goes on, without what was laid beside it."""

    def forward(self, stream: Tensor, *_: Any, **__: Any) -> Tensor:
        """The first channels of the stream."""
        return stream[:, : WIDTHS[-1]]


def _cut(network: nn.Module, paths: Sequence[str], instead: Callable[[], nn.Module]) -> None:
    for parts, place in _lists(network, paths):
        parts[place] = instead()


def _lists(network: nn.Module, paths: Iterable[str]) -> list[tuple[nn.ModuleList, int]]:
    found = []
    for path in paths:
        parent, _, last = path.rpartition(".")
        parts = network.get_submodule(parent)
        assert isinstance(parts, nn.ModuleList)
        found.append((parts, int(last)))
    return found
