"""Look at what goes into and comes out of parts of a running model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

Look = Callable[[str, Tensor], None]
"""Is shown the name of a part and a tensor ``(n, tokens, width)``; it keeps what it needs of it."""


@contextmanager
def seen(inputs: Mapping[str, nn.Module], into: Look, outputs: Mapping[str, nn.Module], behind: Look) -> Iterator[None]:
    """Show what goes into some parts of a model, and what comes out behind others, while the context lasts.

    Args:
        inputs: parts whose first argument is shown.
        into: is shown it.
        outputs: parts whose result is shown.
        behind: is shown it.
    """
    with ExitStack() as stack:
        for name, module in inputs.items():
            stack.callback(module.register_forward_pre_hook(_before(name, into)).remove)
        for name, module in outputs.items():
            stack.callback(module.register_forward_hook(_after(name, behind)).remove)
        yield


class EnoughSeen(Exception):  # noqa: N818 - no error: how a run is ended behind the part that is looked at
    """Raised by a look that needs nothing of what follows."""


@contextmanager
def ends_early() -> Iterator[None]:
    """A run in which a look may end the rest."""
    with suppress(EnoughSeen):
        yield


def _before(name: str, look: Look) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        look(name, arguments[0])

    return hook


def _after(name: str, look: Look) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_: nn.Module, arguments: tuple[Any, ...], returned: Any) -> None:
        look(name, returned[0] if isinstance(returned, tuple) else returned)

    return hook


def grid(tokens: int, aspect: float, most: int) -> Tensor:
    """Which of ``tokens`` tokens of a picture are looked at: at most about ``most``, spread evenly over it.

    The tokens of two models of different resolution at the same place of a grid lie at the same place of the picture.

    Args:
        tokens: row by row, ``height * width`` of them.
        aspect: width / height of the picture.
        most: ``grid`` of two models with equal ``most`` and ``aspect`` have equally many entries where both have more tokens.
    """
    (height, width), (rows, columns) = sides(tokens, aspect), sides(most, aspect)
    return at(height, width, min(height, rows), min(width, columns))


def sides(tokens: int, aspect: float) -> tuple[int, int]:
    """Height and width of a grid of about ``tokens`` tokens, of which there are no more."""
    height = max(round((tokens / aspect) ** 0.5), 1)
    return height, max(tokens // height, 1)


def at(height: int, width: int, rows: int, columns: int) -> Tensor:
    """The tokens of a picture of ``height x width`` of them that lie nearest to an even grid of ``rows x columns``."""
    y = ((torch.arange(rows) + 0.5) * height / rows).long().clamp(max=height - 1)
    x = ((torch.arange(columns) + 0.5) * width / columns).long().clamp(max=width - 1)
    return (y[:, None] * width + x[None, :]).reshape(-1)
