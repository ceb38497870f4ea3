"""What the UNet is told of the prompts: what the text encoders make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lib_transfer.architecture.clip import Clip
from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation.loading.configurations import SIZES, Encoder
from lib_transfer.evaluation.loading.tokens import tokens
from lib_transfer.library.base import Base


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder as a model uses it.

    Attributes:
        network: transformers' ``CLIPTextModelWithProjection``.
        layer: the number of layers that the context goes through.
        normalised: whether the context goes through the last normalisation.
        pooled: whether it gives a vector too.
        filler: the token that fills a prompt up behind its end.
    """

    network: Any
    layer: int
    normalised: bool
    pooled: bool
    filler: int

    @classmethod
    def of(cls, base: Base, network: Any, layout: Clip, encoder: Encoder, more: int) -> TextEncoder:
        """The encoder of a base, whose context leaves out ``more`` layers than usual.

        Raises:
            UnsupportedError: the checkpoint has not as many layers.
        """
        layer = max(layout.layers - encoder.skip - more, 0)
        if layer > network.config.num_hidden_layers:
            raise UnsupportedError(f"{base.path.name} has not all layers of its text encoder, so it cannot be run.")
        return cls(network, layer, encoder.normalised, encoder.pooled, encoder.filler)

    def __call__(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """The context ``(n, 77, width)``, and the vector ``(n, width)`` of the tokens ``numbers`` ``(n, 77)``."""
        inner = self.network.text_model
        places = torch.arange(numbers.shape[1], device=numbers.device)[None]
        said = inner(input_ids=numbers, position_ids=places, output_hidden_states=True)
        if self.normalised and self.layer == len(said.hidden_states) - 1:
            context = said.last_hidden_state
        else:
            context = said.hidden_states[self.layer]
            context = inner.final_layer_norm(context) if self.normalised else context
        return context, self.network.text_projection(said.pooler_output) if self.pooled else None


def conditioning(
    encoders: Sequence[TextEncoder], prompts: Sequence[str], *, empty_is_zero: bool
) -> tuple[Tensor, Tensor | None]:
    """The contexts ``(n, 77, width)`` of the prompts side by side, and the vector ``(n, width)`` of the last that gives one.

    Args:
        encoders: the model's text encoders.
        prompts: the prompts.
        empty_is_zero: whether zeros stand for an empty prompt.
    """
    contexts, vector = [], None
    for encoder in encoders:
        table = encoder.network.text_model.embeddings.token_embedding.weight
        numbers = torch.tensor([tokens(prompt, encoder.filler) for prompt in prompts], device=table.device)
        # Tiny models made for tests know fewer tokens.
        context, pooled = encoder(numbers.clamp(max=table.shape[0] - 1))
        contexts.append(context)
        vector = vector if pooled is None else pooled
    context = torch.cat(contexts, dim=2)
    if empty_is_zero:
        told = torch.tensor([prompt != "" for prompt in prompts], dtype=context.dtype, device=context.device)
        context = context * told[:, None, None]
        vector = None if vector is None else vector * told[:, None]
    return context, vector


def told_beside(pooled: Tensor, size: tuple[int, int], config: Any) -> dict[str, Tensor]:
    """What XL is told beside the context: the vector of the prompts, and sizes (Podell et al. 2023, section 2.2).

    Args:
        pooled: the vector ``(n, width)``.
        size: height and width of the pictures in pixels, which are as large as the original and not cropped.
        config: the UNet's configuration.
    """
    wide = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
    sizes = torch.tensor([[*size, 0, 0, *size]], device=pooled.device).expand(len(pooled), -1)
    # Tiny models made for tests have widths that the sizes do not fill.
    return {"text_embeds": functional.pad(pooled, (0, wide - pooled.shape[1])), "time_ids": sizes}
