"""What stands on the settings page beside the settings: an example of the name template, and the housekeeping."""

from __future__ import annotations

from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_transfer.errors import TransferError
from lib_transfer.formats.naming import fill_template
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.form import Form, FormValues
from lib_transfer.webui.shell.html import error, note, render

EXAMPLE = {"lora": "my-lora", "source": "old-base", "target": "new-base", "method": "rotation", "rank": "same"}


def housekeeping(host: Host, events: Any) -> None:
    """Put the controls of :class:`Housekeeping` on the page that is being built."""
    form = Form(host, "housekeeping_")
    form.add(gr.HTML, "housekeeping", value="")
    with gr.Row():
        form.add(gr.Button, "account", value="Show what Transfer LoRA keeps on disk")
        form.add(gr.Button, "clear_cache", value="Empty the cache")
    lists = (
        ("copies", "Transferred LoRAs", "Ticked by itself is only what can be made again from what is installed."),
        ("trash", "In the trash", "Removed LoRAs, with their previews and notes."),
    )
    buttons = {
        "copies": (("discard", "Move the ticked ones to the trash", "secondary"),),
        "trash": (
            ("restore", "Put the ticked ones back", "secondary"),
            ("empty_trash", "Empty the trash", "stop"),
        ),
    }
    for name, label, info in lists:
        form.add(gr.CheckboxGroup, name, label=label, info=info, choices=[], value=[])
        with gr.Row():
            for action, text, variant in buttons[name]:
                form.add(gr.Button, action, value=text, variant=variant)
    everything = ("housekeeping", "copies", "trash")
    for name, inputs in (
        ("account", ()),
        ("clear_cache", ()),
        ("discard", ("copies",)),
        ("restore", ("trash",)),
        ("empty_trash", ()),
    ):
        form.on(form[name].click, getattr(events, name), inputs, everything)


def name_preview(host: Host, template: Any) -> None:
    """A line below the control ``template`` that shows the name it gives to an example, as it is typed."""
    form = Form(host, "name_")
    form.put("template", template)
    form.add(gr.HTML, "name_preview", value=_example(template.value))

    def of_template(values: FormValues) -> dict[str, Any]:
        return {"name_preview": _example(values["template"])}

    form.on(template.change, of_template, ("template",), ("name_preview",))


def folder_check(host: Host, folder: Any, key: str) -> None:
    """A line below the control ``folder`` of the setting ``key`` that says why what is typed would not be used."""
    form = Form(host, f"{key}_")
    form.put(key, folder)
    form.add(gr.HTML, f"{key}_problem", value="")

    def of_folder(values: FormValues) -> dict[str, Any]:
        problem = host.problem_of(key, str(values[key] or ""))
        return {f"{key}_problem": error(problem) if problem else ""}

    form.on(folder.change, of_folder, (key,), (f"{key}_problem",))


def _example(template: object) -> Markup:
    try:
        return render("name", what="Example", stem=fill_template(str(template), **EXAMPLE, hash8="1a2b3c4d"))
    except TransferError as problem:
        return note(str(problem))
