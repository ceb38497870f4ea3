"""The layout of the Compare panel."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_transfer.webui.compare.form import SAMPLING, SIZE, Field, scene_controls
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.form import Form
from lib_transfer.webui.shell.gradio_compat import HIDDEN, elem_id
from lib_transfer.webui.shell.html import render
from lib_transfer.webui.transfer.form import CHOICE, RESULTS, order_controls


def panel(form: Form, host: Host) -> None:
    """The panel; it is hidden where the program makes no pictures."""
    pictures = host.pictures
    with gr.Accordion("Compare pictures", open=False, elem_id=elem_id("comparison"), visible=pictures is not None):
        info = "The prompt of all pictures. If it has no tag for the LoRA, one is added."
        form.add(gr.Textbox, "prompt", label="Prompt", info=info, lines=2)
        info = "The negative prompt of all pictures."
        form.add(gr.Textbox, "negative", label="Negative prompt", info=info, lines=1)
        with gr.Row():
            samplers = list(pictures.samplers()) if pictures is not None else []
            form.add(
                gr.Dropdown,
                "sampler",
                label="Sampler",
                info="The sampler of all pictures.",
                choices=samplers,
                value=next(iter(samplers), None),
                min_width=160,
            )
            for field in SAMPLING:
                _number(form, field)
        with gr.Row():
            for field in SIZE:
                _number(form, field)
        form.add(gr.HTML, "take_line", value=render("take"))
        form.add(gr.Button, "compare", value="Compare")
        with gr.Column(elem_classes=[HIDDEN]):
            for name in ("taken", "compared"):
                form.add(gr.Textbox, name, label=name, value="")
            for name in ("take", "compare_now"):
                form.add(gr.Button, name, value=name)


def _number(form: Form, field: Field) -> None:
    of = field.parameter
    whole = {"precision": 0} if of.kind == "whole" else {}
    form.add(gr.Number, field.name, label=field.label, info=of.help, value=of.default, min_width=100, **whole)


def wire(form: Form, events: Any) -> None:
    """Connect the events of the panel."""
    inputs, outputs = ("job", *order_controls(), *scene_controls()), ("job", "status", *RESULTS, "pictures")
    form.on(form["compare"].click, events.start, inputs, outputs)
    inputs = ("job", "taken", "compared", *scene_controls())
    form.on(form["compare_now"].click, events.start_now, inputs, ("job", "status", "pictures"))
    # Those that are kept come back with the LoRA, also after another job, a reload of the page and a restart of the server.
    for trigger in (form["adapters"].change, form["target"].change, form["look"].click):
        form.on(trigger, events.chosen, CHOICE, ("kept_pictures",))
    form.on(form["take"].click, events.take, ("taken",), scene_controls())
