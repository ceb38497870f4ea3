"""What the programs call for every generation: the box in txt2img and img2img, and the hooks.

The script that registers this mixes it into the program's own ``Script`` class: the programs register every such class that
they find in a script's namespace, and know their own base class only when they run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_transfer.webui.prompt.generation import Prompts
from lib_transfer.webui.prompt.infotext import BOX
from lib_transfer.webui.shell.gradio_compat import elem_id

TITLE = "Transfer LoRA"
"""What the API calls the script, in lower case."""


class Hooks:
    """The hooks of a ``Script``. Keeps nothing of a generation: the programs have one for all of them.

    Attributes:
        prompts: gives who writes prompts anew.
        infotext_fields, paste_field_names: where the programs put the box's value from a picture's parameters.
    """

    prompts: Callable[[], Prompts]
    infotext_fields: list[tuple[Any, str]]
    paste_field_names: list[str]

    def title(self) -> str:
        """The script's name."""
        return TITLE

    def show(self, is_img2img: bool) -> Any:
        """Always there, in both tabs."""
        return importlib.import_module("modules.scripts").AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        """The box. The programs call this more than once and throw some of it away."""
        where = "img2img" if is_img2img else "txt2img"
        with gr.Accordion(TITLE, open=False, elem_id=elem_id(where)):
            box = gr.Checkbox(
                label=BOX,
                info="for every LoRA in the prompt; for one alone, write <tlora:name:1>",
                value=False,
                elem_id=elem_id(f"{where}_use"),
            )
        self.infotext_fields = [(box, BOX)]
        self.paste_field_names = [BOX]
        return [box]

    def process(self, p: Any, box: Any = False, *_: Any) -> None:
        """Once for a generation, when its prompts are complete and its model is loaded."""
        self.prompts().begin(p, bool(box))

    def before_process_batch(self, p: Any, box: Any = False, *_: Any, prompts: list[str], **__: Any) -> None:
        """Once for every batch, the last moment before its tags are parsed."""
        self.prompts().batch(p, prompts, bool(box))
