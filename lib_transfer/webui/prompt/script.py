"""What the programs call for every generation: the box in txt2img and img2img, and the hooks.

Our script adds this to the program's own ``Script`` class, which can be imported only while the program runs. The programs
register every such class that they find in the namespace of a script.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from lib_transfer.webui.prompt.infotext import BOX
from lib_transfer.webui.shell.gradio_compat import elem_id

if TYPE_CHECKING:
    from lib_transfer.webui.prompt.generation import Prompts

TITLE = "Transfer LoRA"
"""The script's name in the API, there in lower case."""


class Hooks:
    """The hooks of a ``Script``. The programs use one object for all generations, so nothing of a generation is kept in it.

    Attributes:
        prompts: returns the object that rewrites prompts.
        infotext_fields, paste_field_names: tell the programs how to restore the box from a picture's parameters.
    """

    prompts: Callable[[], Prompts]
    infotext_fields: list[tuple[Any, str]]
    paste_field_names: list[str]

    def title(self) -> str:
        """The script's name."""
        return TITLE

    def show(self, is_img2img: bool) -> Any:
        """The script is always active, in both tabs."""
        return importlib.import_module("modules.scripts").AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        """The box. The programs call this more than once and discard some of the results."""
        where = "img2img" if is_img2img else "txt2img"
        with gr.Accordion(TITLE, open=False, elem_id=elem_id(where)):
            box = gr.Checkbox(
                label=BOX,
                info="For every LoRA in the prompt. For a single one, write <tlora:name:1> instead.",
                value=False,
                elem_id=elem_id(f"{where}_use"),
            )
        self.infotext_fields = [(box, BOX)]
        self.paste_field_names = [BOX]
        return [box]

    def process(self, p: Any, box: Any = False, *_: Any) -> None:
        """Called once for a generation, when its prompts are complete and its model is loaded."""
        self.prompts().begin(p, bool(box))

    def before_process_batch(self, p: Any, box: Any = False, *_: Any, prompts: list[str], **__: Any) -> None:
        """Called for every batch, just before its tags are parsed."""
        self.prompts().batch(p, prompts, bool(box))
