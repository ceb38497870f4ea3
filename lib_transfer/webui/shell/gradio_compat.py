"""Makes controls and events that work on gradio 3.41 (A1111, reForge, Classic) and on 4.40 (Forge).

We use only what both have: ``gr.update``, plain strings as choices, no JavaScript in events, no ``concurrency_limit``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context

HIDDEN = "transfer-lora-hidden"
"""The class of controls that only our JavaScript uses. ``visible=False`` would keep some of them out of the page."""


def elem_id(name: str) -> str:
    """The id in the page of our control ``name``."""
    return f"transfer_lora_{name}"


def control(kind: Callable[..., Any], name: str, **options: Any) -> Any:
    """A control with our id: the gradio class ``kind`` with ``options``.

    Otherwise A1111 would store the value from the first start in ``ui-config.json``, and the control would follow neither
    the installed files nor our settings.
    """
    made = kind(elem_id=elem_id(name), **options)
    made.do_not_save_to_config = True
    return made


def on(trigger: Callable[..., Any], work: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call ``work`` at an event, outside of gradio's queue.

    Events of the tab are quick, and long work runs as a job. In the queue, a second window would have to wait for the first
    on gradio 4, and A1111 would not start with ``--no-gradio-queue``.

    ``work`` gets the values as they come from the browser. gradio would turn some that do not fit into errors of its own,
    before ``work`` could say what is the matter: a page that is older than the server has lists that are gone.

    Called by nothing but :meth:`Form.on`, so that no event is without the checks there.
    """
    trigger(
        fn=work,
        inputs=list(inputs),
        outputs=list(outputs),
        queue=False,
        preprocess=False,
        show_progress="hidden",
        api_name=False,
    )


def within_a_page() -> bool:
    """Whether controls that are made now become part of a page. Forge also makes those of its settings outside any page."""
    return Context.root_block is not None


def blocks(**options: Any) -> gr.Blocks:
    """A page without gradio's analytics."""
    return gr.Blocks(analytics_enabled=False, **options)
