"""Forward hooks that show what goes into and comes out of parts of a running model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

Look = Callable[[str, Tensor], None]
"""A function that is shown the name of a part and a tensor ``(n, tokens, width)``, and keeps what it needs of it."""


@contextmanager
def watched(
    inputs: Mapping[str, nn.Module], into: Look, outputs: Mapping[str, nn.Module], behind: Look
) -> Iterator[None]:
    """Show what goes into some parts of a model, and what comes out behind others, while the context lasts.

    Args:
        inputs: the parts whose first argument is shown to ``into``.
        into: what looks at the inputs.
        outputs: the parts whose result is shown to ``behind``.
        behind: what looks at the outputs.
    """
    with ExitStack() as stack:
        for name, module in inputs.items():
            stack.callback(module.register_forward_pre_hook(_before(name, into)).remove)
        for name, module in outputs.items():
            stack.callback(module.register_forward_hook(_after(name, behind)).remove)
        yield


class StopForward(Exception):  # noqa: N818 - no error: it ends a run behind the part that is looked at
    """Raised by a :data:`Look` to end the run, because it needs nothing of what follows."""


@contextmanager
def stops_early() -> Iterator[None]:
    """A context in which a model's run ends quietly where a :data:`Look` raises :class:`StopForward`."""
    with suppress(StopForward):
        yield


def _before(name: str, look: Look) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        look(name, arguments[0])

    return hook


def _after(name: str, look: Look) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_: nn.Module, arguments: tuple[Any, ...], returned: Any) -> None:
        look(name, returned[0] if isinstance(returned, tuple) else returned)

    return hook
