"""The controls of a page, listed once by name, and the values that arrive from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gradio as gr

from lib_transfer.webui.shell.gradio_compat import control, on

FormValues = Mapping[str, Any]
"""The values of controls by name, as they come from a browser: of any type, and not to be trusted."""

Updates = Mapping[str, Any] | None
"""New values, or updates, of controls by name; a control that is not named stays as it is."""


class Form:
    """The controls of a page by name. A control's id in the page is its name with our prefix."""

    def __init__(self) -> None:
        self._controls: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self._controls[name]

    def add(self, kind: Callable[..., Any], name: str, **options: Any) -> None:
        """Put a control of the gradio class ``kind`` on the page that is being built."""
        self.put(name, control(kind, name, **options))

    def put(self, name: str, made: Any) -> None:
        """Remember a control that was made elsewhere."""
        assert name not in self._controls, name
        self._controls[name] = made

    def on(
        self,
        trigger: Callable[..., Any],
        work: Callable[[FormValues], Updates],
        inputs: Iterable[str],
        outputs: Iterable[str],
    ) -> None:
        """Call ``work`` at an event.

        Args:
            trigger: the event of a control, such as ``form["run"].click``.
            work: gets the values of ``inputs`` and gives updates for some or all of ``outputs``.
            inputs, outputs: names of controls.
        """
        given, changed = tuple(inputs), tuple(outputs)

        def event(*values: Any) -> Any:
            updates = work(dict(zip(given, values, strict=True))) or {}
            assert set(updates) <= set(changed), sorted(updates)
            made = [updates.get(name, gr.update()) for name in changed]
            # gradio takes the value itself where there is one output, and nothing where there is none.
            return made[0] if len(made) == 1 else made or None

        # gradio names its events after functions. Not functools.wraps: gradio would count the wrong arguments.
        event.__name__ = getattr(work, "__name__", type(work).__name__)
        on(trigger, event, [self[name] for name in given], [self[name] for name in changed])
