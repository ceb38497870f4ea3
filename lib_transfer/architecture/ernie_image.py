"""Ernie-Image and its Turbo, and everything trained from them.

Keys: the single files have those of diffusers' ``ErnieImageTransformer2DModel``; sizes are those of the released model. One
modulation serves all layers, and the layers themselves have no bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lib_transfer.architecture.architecture import Architecture
from lib_transfer.architecture.layout import KeyLayout, Slot, shrink
from lib_transfer.architecture.transformer import GENERIC, PART, WRAPPED_KEY_LAYOUTS, WRAPPED_NAMINGS, Place, at, slots

LATENT = 128  # 32 channels in patches of 2 x 2


@dataclass(frozen=True)
class ErnieImage:
    """The diffusion transformer of Ernie-Image.

    Attributes:
        model: what it is.
        depth: how many layers.
        width: the width of the hidden states.
        inner: the width of the feed-forward.
        text: the width of the text encoder's hidden states.
        head: the width of an attention head.
    """

    model: str
    depth: int = 36
    width: int = 4096
    inner: int = 12288
    text: int = 3072
    head: int = 128
    part: str = PART
    key_layouts: tuple[KeyLayout, ...] = WRAPPED_KEY_LAYOUTS

    @property
    def essential(self) -> frozenset[str]:
        """The ways in and out, and what is done with the time."""
        time = ("time_embedding.linear_1", "time_embedding.linear_2", "adaLN_modulation.1")
        return frozenset(("x_embedder.proj", "text_proj", *time, "final_norm.linear", "final_linear"))

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in the order of the forward pass."""
        return _slots(self)

    def scaled(self, width: int) -> ErnieImage:
        """The same structure, about ``width`` wide, in heads of 8; latents stay, and the text has another width still."""
        own, inner, text = (shrink(size, width, of=self.width) for size in (self.width, self.inner, self.text))
        return replace(self, width=own, inner=inner, text=text if text != own else own + 8, head=8)


@lru_cache(maxsize=64)
def _slots(ernie: ErnieImage) -> tuple[Slot, ...]:
    return slots(_places(ernie))


def _places(ernie: ErnieImage) -> Iterator[Place]:
    width = ernie.width
    first = {
        "x_embedder.proj": (width, LATENT, 1, 1),
        "text_proj": (width, ernie.text),
        "time_embedding.linear_1": (width, width),
        "time_embedding.linear_2": (width, width),
        "adaLN_modulation.1": (6 * width, width),
    }
    yield from at("embedding", "BASE", (_place(path, path, s, bias=path != "text_proj") for path, s in first.items()))
    for number in range(ernie.depth):
        path = f"layers.{number}"
        yield from at("layers", f"L{number:02}", _layer(ernie, path), path)
    last = {"final_norm.linear": (2 * width, width), "final_linear": (LATENT, width)}
    yield from at("final", "FINAL", (_place(path, path, shape, bias=True) for path, shape in last.items()))


def _place(path: str, role: str, shape: tuple[int, ...], *, bias: bool) -> Place:
    """A place that both call the same."""
    return Place(path, path, role, shape, bias=bias)


def _layer(ernie: ErnieImage, path: str) -> Iterator[Place]:
    width, inner, head = ernie.width, ernie.inner, (ernie.head,)
    shapes: dict[str, tuple[int, ...]] = {"adaLN_sa_ln": (width,)}
    shapes |= {f"self_attention.to_{word}": (width, width) for word in "qkv"}
    shapes |= {"self_attention.norm_q": head, "self_attention.norm_k": head}
    shapes |= {"self_attention.to_out.0": (width, width), "adaLN_mlp_ln": (width,)}
    shapes |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.linear_fc2": (width, inner)}
    for role, shape in shapes.items():
        yield _place(f"{path}.{role}", role, shape, bias=False)


ERNIE_IMAGE = Architecture(
    id="ernie-image",
    title="Ernie-Image",
    family="ernie-image",
    card_version="Unknown",
    base_model_version="ernie_image",
    v2=False,
    modelspec_architecture="Ernie-Image/lora",
    modelspec_implementation="https://github.com/baidu/ERNIE-Image",
    core=ErnieImage("ernie-image-transformer"),
    text_encoders=(),
    namings=WRAPPED_NAMINGS,
    hosts="Forge Neo or ComfyUI",
    also_loaded=GENERIC,
)
