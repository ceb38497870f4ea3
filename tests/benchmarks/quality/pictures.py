"""Small procedural pictures with prompts: a coloured shape on a ground, in several domains and three styles.

Domains are what bases are trained on; styles are what LoRAs are trained on. All are drawn in closed form with soft edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 16

COLOURS = {
    "red": (0.9, -0.7, -0.7),
    "green": (-0.6, 0.7, -0.6),
    "blue": (-0.6, -0.4, 0.9),
    "yellow": (0.9, 0.8, -0.7),
    "purple": (0.5, -0.7, 0.8),
    "orange": (0.95, 0.2, -0.8),
}
GROUNDS = {"black": (-0.9, -0.9, -0.9), "grey": (-0.1, -0.1, -0.1), "white": (0.9, 0.9, 0.9), "sand": (0.6, 0.4, 0.1)}
SHAPES = ("disc", "square", "triangle", "cross")
COLUMNS = {"left": -2.5, "centre": 0.0, "right": 2.5}
ROWS = {"top": -2.5, "middle": 0.0, "bottom": 2.5}

STYLES = {"stripes": "striped", "outline": "outlined", "palette": "faded"}
"""The word of each style (a texture, a structure, colours) in the prompts; bases never saw it."""

WORDS = (*COLOURS, *GROUNDS, *SHAPES, *COLUMNS, *ROWS, *STYLES.values())
LENGTH = 6
"""Words of the longest prompt."""

DRIFTS = {"plain": 0.0, "drift 1": 0.1, "drift 2": 0.2, "drift 3": 0.4, "drift 4": 0.7, "drift 5": 1.0}
"""Domains from the plain one on, and how far they are from it: smaller shapes, duller colours, light from above."""

FAR = "far"
"""The domain of dark, textured grounds and glowing shapes whose colours go by other names."""

STRIPE = 4.0
"""Pixels from one stripe to the next."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures ``(n, 3, 16, 16)`` in -1 to 1, and a prompt for each."""

    pixels: Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)


def draw(
    number: int, generator: torch.Generator, domain: str = "plain", style: str | None = None, *, exact: bool = False
) -> Pictures:
    """``number`` pictures with everything about them drawn by lot.

    Args:
        number: of pictures.
        generator: of all that is left to chance.
        domain: one of :data:`DRIFTS`, or :data:`FAR`.
        style: one of :data:`STYLES`, or None.
        exact: whether every shape is just where and as large as the prompt says, and not only about.
    """

    def lot(names: tuple[str, ...]) -> list[str]:
        return [names[i] for i in torch.randint(len(names), (number,), generator=generator).tolist()]

    colour, ground, shape = lot(tuple(COLOURS)), lot(tuple(GROUNDS)), lot(SHAPES)
    column, row = lot(tuple(COLUMNS)), lot(tuple(ROWS))
    jitter = (torch.rand(number, 3, generator=generator) - 0.5) * (not exact)
    x, y = _grid()
    dx = x - torch.tensor([COLUMNS[name] for name in column])[:, None, None] - jitter[:, 0, None, None]
    dy = y - torch.tensor([ROWS[name] for name in row])[:, None, None] - jitter[:, 1, None, None]
    drift = DRIFTS.get(domain, 0.0)
    radius = 4.5 - 0.7 * drift + jitter[:, 2, None, None]
    inside = radius - _distances(shape, dx, dy)

    ink = torch.tensor([COLOURS[name] for name in colour])[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    paper = torch.tensor([GROUNDS[name] for name in ground])[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    light = 0.25 * drift * (-y / SIZE * 2)[None, None]
    ink, paper = (1 - 0.25 * drift) * ink + light, (1 - 0.25 * drift) * paper + light
    if domain == FAR:
        texture = 0.5 * torch.sin(1.6 * (x + y) + 6.3 * jitter[:, 0, None, None])[:, None]
        ink, paper = ink[:, (1, 2, 0)], -0.5 + 0.4 * paper[:, (2, 0, 1)] + texture
    cover = _soft(inside)[:, None]
    if style == "stripes":
        lit = (torch.sin(2 * torch.pi * (y + 0.5) / STRIPE) * 2).clamp(-1, 1)
        ink = ink * 0.5 + lit * 0.5 * torch.ones_like(ink)
    elif style == "outline":
        cover = cover * (1 - _soft(inside - 1.6)[:, None])
    elif style == "palette":
        ink, paper = _faded(ink), _faded(paper)
    pixels = (cover * ink + (1 - cover) * paper).clamp(-1, 1)
    end = () if style is None else (STYLES[style],)
    prompts = tuple(" ".join((*said, *end)) for said in zip(colour, shape, column, row, ground, strict=True))
    return Pictures(pixels, prompts)


def untriggered(prompts: Sequence[str]) -> tuple[str, ...]:
    """The prompts without the words of styles."""
    styles = STYLES.values()
    return tuple(" ".join(word for word in prompt.split() if word not in styles) for prompt in prompts)


def prompts(number: int, seed: int, style: str | None = None) -> tuple[str, ...]:
    """Prompts without their pictures."""
    return draw(number, torch.Generator().manual_seed(seed), style=style).prompts


def _grid() -> tuple[Tensor, Tensor]:
    """x and y of every pixel's middle, from the picture's middle, ``(16, 16)`` each."""
    line = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def _distances(shapes: list[str], dx: Tensor, dy: Tensor) -> Tensor:
    """How large each shape would have to be to reach each pixel, ``(n, 16, 16)``."""
    ax, ay = dx.abs(), dy.abs()
    arms = torch.maximum(torch.minimum(ax, ay) + 2.2, torch.maximum(ax, ay))
    forms = {
        "disc": (dx.square() + dy.square()).sqrt(),
        "square": torch.maximum(ax, ay) + 0.6,
        "triangle": torch.maximum(dy, ax * 0.9 - dy * 0.45 + 0.6),
        "cross": arms,
    }
    every = torch.stack([forms[name] for name in SHAPES])
    which = torch.tensor([SHAPES.index(name) for name in shapes])
    return every[which, torch.arange(len(shapes))]


def _soft(inside: Tensor) -> Tensor:
    """How much of a pixel is covered, where ``inside`` pixels are left to the edge."""
    return (inside + 0.5).clamp(0, 1)


def _faded(colours: Tensor) -> Tensor:
    """Colours of an old photograph: little of their own left, on a scale from brown to cream."""
    grey = (colours * torch.tensor([0.3, 0.5, 0.2])[:, None, None]).sum(1, keepdim=True)
    scale = torch.tensor([0.7, 0.45, 0.3])[:, None, None] * grey + torch.tensor([0.25, 0.0, -0.3])[:, None, None]
    return 0.25 * colours + 0.75 * scale
