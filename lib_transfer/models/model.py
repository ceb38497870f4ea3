"""What a running model can do for us, and the implementation for any network of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lib_transfer.models.apply import Place
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.schedule import Schedule

GUIDANCE = 2.0
"""The usual scale of classifier-free guidance: little, because pictures that are made with much of it are not those that a model
takes for likely. In the quality benchmark (seed 0, two styles of the pruned pair), training on pictures that were made with 5
reached 76 and 81 of 100, with 2 it reached 95 in the one style that was tried, and the gain tells adapters apart better.
"""


class Model(Protocol):
    """A base that is in memory and can be run.

    Attributes:
        places: where the modules of the checkpoint are in the network, by canonical name; adapters are put on these.
        latent_space: the name of its autoencoder; models with equal names have the same latents.
        schedule: its noise schedule and what it predicts.
        shape: ``(channels, height, width)`` of its latents.
        differentiable: whether predictions carry the gradients of an adapter that is on it.
        guidance: the scale of classifier-free guidance that it makes pictures with; 1 where it was distilled to need none.
        together: how many inputs it is run on at once; 1 where memory may be short.
    """

    @property
    def places(self) -> Mapping[str, Place]: ...
    @property
    def latent_space(self) -> str: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def differentiable(self) -> bool: ...
    @property
    def guidance(self) -> float: ...
    @property
    def together(self) -> int: ...

    def noise(self, noised: Tensor, times: Tensor, prompts: Sequence[str], *, with_grad: bool = False) -> Tensor:
        """The model's prediction of the noise in ``noised`` ``(n, channels, height, width)``, float32 on the CPU.

        The prompts are encoded anew each time, because an adapter may be on the text encoders.

        Args:
            noised: the noised latents, float32 on the CPU.
            times: the times ``(n,)``, from 0 to 1.
            prompts: the prompt of each.
            with_grad: whether the result carries gradients, where the model is differentiable.
        """

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents ``(n, channels, height, width)`` of pictures ``(n, 3, height, width)`` of numbers from -1 to 1."""

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures that ``latents`` stand for, the inverse of :meth:`encode`."""


def predict(model: Model, inputs: Inputs, *, with_grad: bool = False) -> Tensor:
    """The model's prediction of the noise in ``inputs`` ``(n, channels, height, width)``; see :meth:`Model.noise`."""
    noised = model.schedule.noised(inputs.clean, inputs.noise, inputs.times)
    return model.noise(noised, inputs.times, inputs.prompts, with_grad=with_grad)


class TorchModel:
    """Any network of torch.

    Args:
        places: the places of its modules, by canonical name; see :func:`lib_transfer.models.places`.
        forward: the function ``(x_t, steps, prompts) -> prediction``; the schedule says what is predicted.
        schedule: its noise schedule.
        shape: ``(channels, height, width)`` of its latents.
        latent_space: the name of its autoencoder.
        encode, decode: the autoencoder; not needed between models of one latent space.
        differentiable, guidance, together: see :class:`Model`.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        forward: Callable[[Tensor, Tensor, Sequence[str]], Tensor],
        schedule: Schedule,
        shape: tuple[int, int, int],
        *,
        latent_space: str = "",
        encode: Callable[[Tensor], Tensor] | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
        differentiable: bool = False,
        guidance: float = GUIDANCE,
        together: int = 1,
    ) -> None:
        self.places = places
        self.schedule, self.shape, self.latent_space = schedule, shape, latent_space
        self.differentiable, self.guidance, self.together = differentiable, guidance, together
        self._forward, self._encode, self._decode = forward, encode, decode

    def noise(self, noised: Tensor, times: Tensor, prompts: Sequence[str], *, with_grad: bool = False) -> Tensor:
        """As :class:`Model` says."""
        with torch.set_grad_enabled(self.differentiable and with_grad):
            predicted = self._forward(noised, self.schedule.steps(times), prompts)
            return self.schedule.as_noise(predicted.float().cpu(), noised, times)

    def close(self) -> None:
        """Release the network, although this object may still be referenced; it cannot be run any more."""

        def closed(*_: object) -> Tensor:
            raise RuntimeError("This model was closed.")

        self.places = {}
        self._forward = self._encode = self._decode = closed

    def encode(self, pictures: Tensor) -> Tensor:
        """As :class:`Model` says."""
        return pictures if self._encode is None else self._encode(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """As :class:`Model` says."""
        return latents if self._decode is None else self._decode(latents)
