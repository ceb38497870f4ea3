"""Small transformers laid out as those in Stable Diffusion, whose exact answers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib_transfer.architecture.module import Module, Name, Position
from lib_transfer.library.base import Base
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import Inputs, Schedule, TorchModel, places
from lib_transfer.models.model import Model
from lib_transfer.update import Update

SHAPE = (4, 8, 8)
CONTEXT = 6


class Attention(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        weights = (self.to_q(x) @ self.to_k(context).transpose(1, 2)).softmax(-1)
        result: Tensor = self.to_out[0](weights @ self.to_v(context))
        return result


class Feed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.net:
            x = part(x)
        return x


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ff = Attention(width, width), Attention(width, CONTEXT), Feed(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(x, x)
        x = x + self.attn2(x, context)
        return x + self.ff(x)


class Network(nn.Module):
    """Every latent pixel is a token."""

    def __init__(self, width: int = 12, blocks: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(SHAPE[0], width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(blocks)])
        self.last = nn.Linear(width, SHAPE[0])

    def forward(self, x: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens = self.first(x.flatten(2).transpose(1, 2))
        context = torch.stack([words(prompt) for prompt in prompts])
        for block in self.blocks:
            tokens = block(tokens, context)
        return self.last(tokens).transpose(1, 2).reshape(x.shape)


def words(prompt: str) -> Tensor:
    """Three vectors that belong to a prompt."""
    return torch.randn(3, CONTEXT, generator=torch.Generator().manual_seed(sum(map(ord, prompt))))


def model(network: nn.Module) -> TorchModel:
    """The network as a model; its modules go by their own names."""
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    schedule = Schedule.stable_diffusion()
    return TorchModel(places(linear), network, schedule, SHAPE, differentiable=True)


def opens(it: Model, log: list[str] | None = None, name: str = "") -> Callable[[], AbstractContextManager[Model]]:
    """How a study gets at a model; notes when it comes and goes."""

    @contextmanager
    def opened() -> Iterator[Model]:
        if log is not None:
            log.append(f"+{name}")
        try:
            yield it
        finally:
            if log is not None:
                log.append(f"-{name}")

    return opened


def modules(network: nn.Module) -> tuple[Module, ...]:
    """What the product would say of the network's layers, were it a checkpoint's."""
    found = []
    for depth, (name, layer) in enumerate(network.named_modules()):
        if isinstance(layer, nn.Linear):
            role = name.split(".", 2)[-1] if name.startswith("blocks.") else name
            bias = f"{name}.bias" if layer.bias is not None else None
            position = Position("unet", "middle", name.rpartition(f".{role}")[0], depth, role)
            shape = tuple(layer.weight.shape)
            output = Name(name, None)
            found.append(Module(name, f"{name}.weight", bias, "linear", shape, None, None, position, (output,), output))
    return tuple(found)


def adapter(
    network: nn.Module, roles: Sequence[str] = ("attn1.", "attn2.", "ff."), size: float = 0.5
) -> dict[str, Update]:
    """A LoRA of rank 2 on those layers of the blocks whose role begins with one of ``roles``."""
    made = {}
    for number, module in enumerate(modules(network)):
        if module.position.role.startswith(tuple(roles)):
            generator = torch.Generator().manual_seed(number)
            out, into = module.matrix_shape
            up, down = (torch.randn(shape, generator=generator) for shape in ((out, 2), (2, into)))
            made[module.name] = Update(factors=Factors(size * up / 2**0.5, down / into**0.5), rank=2)
    return made


def inputs(number: int, seed: int = 0) -> Inputs:
    """Inputs made by hand."""
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn((number, *SHAPE), generator=generator) for _ in range(2))
    return Inputs(clean, noise, torch.linspace(0.2, 0.9, number), tuple(f"prompt {n % 3}" for n in range(number)))


class Painter(nn.Module):
    """The exact noise prediction for pictures that are normal, of deviation 0.5, around a colour that the prompt gives.

    The colour is ``colour(words)``: a LoRA on the two layers changes it, and the word ``styled`` alone if it wants to.
    """

    WORDS = ("red", "blue", "styled")

    def __init__(self, seed: int = 0, channels: int = SHAPE[0], width: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.schedule = Schedule.stable_diffusion()
        self.blocks = nn.ModuleList([nn.Module()])
        block = self.blocks[0]
        block.attn1, block.ff = nn.Module(), nn.Module()
        block.attn1.to_v, block.ff.net = nn.Linear(len(self.WORDS), width, bias=False), nn.Linear(width, channels)
        for parameter in self.parameters():
            parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator)

    def colour(self, prompts: Sequence[str]) -> Tensor:
        said = torch.tensor([[float(word in prompt.split()) for word in self.WORDS] for prompt in prompts])
        block = self.blocks[0]
        result: Tensor = block.ff.net(block.attn1.to_v(said))  # type: ignore[operator, union-attr]
        return result[:, :, None, None]

    def forward(self, x: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        return noise_in(x, self.schedule.mix(steps / 999), self.colour(prompts))

    def model(self, shape: tuple[int, int, int] = SHAPE, space: str = "", **autoencoder: Any) -> TorchModel:
        linear = {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        return TorchModel(
            places(linear), self, self.schedule, shape, latent_space=space, differentiable=True, **autoencoder
        )

    def style(self) -> dict[str, Update]:
        """A LoRA of rank 1 that changes the colour where ``styled`` is in the prompt."""
        name = "blocks.0.attn1.to_v"
        up = torch.randn(self.blocks[0].attn1.to_v.out_features, 1, generator=torch.Generator().manual_seed(5))  # type: ignore[union-attr, arg-type]
        return {name: Update(factors=Factors(up, torch.tensor([[0.0, 0.0, 1.0]])), rank=1)}


def layers_of(base: Base, chosen: Callable[[Module], bool]) -> dict[str, nn.Linear]:
    """Layers with the weights of those modules of a checkpoint that are ``chosen``, by name."""
    layers = {}
    for it in filter(chosen, base.modules):
        layers[it.name] = nn.Linear(it.shape[1], it.shape[0], bias=False)
        layers[it.name].weight.data = base.checkpoint.read(it.weight, None, torch.float32)
    return layers


def noise_in(x: Tensor, mix: tuple[Tensor, Tensor], colour: Tensor) -> Tensor:
    """The exact noise prediction for pictures that are normal, of deviation 0.5, around a colour.

    Args:
        x: the noised pictures.
        mix: how much of the picture and of the noise is in them.
        colour: the colour, broadcast to the shape of ``x``.
    """
    a, s = mix
    return s * (x - a * colour) / (a * a * 0.25 + s * s)
