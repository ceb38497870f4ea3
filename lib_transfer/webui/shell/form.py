"""The controls of a page, listed once by name, and the values that arrive from them.

Every event of ours is connected by :meth:`Form.on`. What holds for all of them is there: it has no name in gradio's API, it
does nothing for anyone but our own page, an error is a sentence in the page, and paths are hidden from strangers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gradio as gr

from lib_transfer.errors import TransferError, internal
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell import caller
from lib_transfer.webui.shell.gradio_compat import HIDDEN, control, on
from lib_transfer.webui.shell.html import error

logger = logging.getLogger("transfer_lora")

FormValues = Mapping[str, Any]
"""The values of controls by name, as they come from a browser: of any type, and not to be trusted."""

Updates = Mapping[str, Any] | None
"""New values, or updates, of controls by name; a control that is not named stays as it is."""


class Form:
    """The controls of a page by name. A control's id in the page is its name with our prefix.

    It is made on the page that is being built, where it puts the place for errors, and the token that its events need.

    Args:
        host: the program that the page is in.
        prefix: what stands before the names of these two; forms that share a page differ in it.
    """

    def __init__(self, host: Host, prefix: str = "") -> None:
        self._host = host
        self._controls: dict[str, Any] = {}
        self._token, self._refused = f"{prefix}token", f"{prefix}refused"
        self.add(gr.HTML, self._refused, value="")
        with gr.Column(elem_classes=[HIDDEN]):
            self.add(gr.Textbox, self._token, label=self._token, value=caller.TOKEN)

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
            work: gets the values of ``inputs`` and gives updates for some or all of ``outputs``; what it raises is told in
                the page.
            inputs, outputs: names of controls.
        """
        given, changed = tuple(inputs), (*outputs, self._refused)

        # gradio passes the request to a parameter of this type.
        def event(request: gr.Request, token: Any = None, *values: Any) -> Any:
            try:
                caller.check(request, token)
                updates = {self._refused: "", **(work(dict(zip(given, values, strict=True))) or {})}
            except TransferError as problem:
                updates = {self._refused: error(problem.message, problem.hint)}
            except Exception as problem:
                logger.exception("Transfer LoRA: an event failed")
                ours = internal(problem)
                updates = {self._refused: error(ours.message, ours.hint)}
            assert set(updates) <= set(changed), sorted(updates)
            made = [self._shown(updates.get(name, gr.update())) for name in changed]
            # gradio takes the value itself where there is one output.
            return made[0] if len(made) == 1 else made

        # gradio names its events after functions. Not functools.wraps: gradio would count the wrong arguments.
        event.__name__ = getattr(work, "__name__", type(work).__name__)
        names = (self._token, *given), changed
        on(trigger, event, *([self[name] for name in each] for each in names))

    def _shown(self, update: Any) -> Any:
        """An update as the page may show it."""
        return self._host.shown(update) if isinstance(update, str) else update
