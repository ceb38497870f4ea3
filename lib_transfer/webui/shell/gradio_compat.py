"""What differs between gradio 3.41 (A1111, reForge, Classic) and 4.40 (Forge), and how our controls are made on both.

Only what both have is used: ``gr.update``, plain strings as choices, no JavaScript in events, no ``concurrency_limit``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context

HIDDEN = "transfer-lora-hidden"
"""Class of controls that only our javascript uses. ``visible=False`` would keep some of them out of the page."""


def elem_id(name: str) -> str:
    """The id in the page of our control ``name``."""
    return f"transfer_lora_{name}"


def control(kind: Callable[..., Any], name: str, **options: Any) -> Any:
    """A control with our id: the gradio class ``kind`` with ``options``.

    A1111 would keep every control's value of the first start in ``ui-config.json``, and ours would then follow neither the
    files nor our settings.
    """
    made = kind(elem_id=elem_id(name), **options)
    made.do_not_save_to_config = True
    return made


def on(trigger: Callable[..., Any], work: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call ``work`` at an event, outside of gradio's queue.

    Everything the tab does at an event is quick; long work is a job of its own. In the queue, gradio 4 would let a second
    window wait for the first, and A1111 with ``--no-gradio-queue`` would refuse to start.
    """
    trigger(fn=work, inputs=list(inputs), outputs=list(outputs), queue=False, show_progress="hidden")


def within_a_page() -> bool:
    """Whether controls that are made now become part of a page; Forge also makes each setting's once outside of any."""
    return Context.root_block is not None


def blocks(**options: Any) -> gr.Blocks:
    """A page that reports to nobody."""
    return gr.Blocks(analytics_enabled=False, **options)
