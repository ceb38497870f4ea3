"""The layout of the Transfer view and of what it shares with Batch: the LoRAs, the target, the source, the method."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell import controls, status
from lib_transfer.webui.shell.form import Form
from lib_transfer.webui.shell.gradio_compat import elem_id
from lib_transfer.webui.shell.html import render
from lib_transfer.webui.transfer.form import (
    ACTIVE,
    ANSWERS,
    AUTOMATIC,
    CHOICE,
    RESULTS,
    first_method,
    order_controls,
)


def adapters(form: Form) -> None:
    """The list of LoRAs, and what is known of the chosen ones."""
    with gr.Row(elem_id=elem_id("adapters_row")):
        form.add(
            gr.Dropdown,
            "adapters",
            label="LoRAs",
            info="The LoRAs to transfer. Type to search by name, base or rank.",
            choices=[],
            value=[],
            multiselect=True,
        )
        form.add(gr.Button, "refresh", value="Refresh", size="sm", min_width=90, scale=0)
    form.add(gr.HTML, "chosen", value="")
    form.add(gr.Button, "loadable", value="Make it load", size="sm", visible=False)


def request(form: Form, host: Host) -> None:
    """The target, the source, the method and its settings, which hold for a batch too."""
    form.add(
        gr.Dropdown,
        "target",
        label="Target checkpoint",
        info="The checkpoint that the LoRAs are transferred to.",
        choices=[ACTIVE],
        value=ACTIVE,
    )
    form.add(gr.HTML, "target_line", value="")
    form.add(
        gr.Dropdown,
        "source",
        label="Source checkpoint",
        info="The checkpoint that the LoRAs were trained on, found from their metadata.",
        choices=[AUTOMATIC],
        value=AUTOMATIC,
    )
    method = first_method(host)
    with gr.Accordion("Advanced options", open=False, elem_id=elem_id("advanced")):
        form.add(
            gr.Radio,
            "method",
            label="Method",
            info="How the LoRA is adapted. Automatic runs both checkpoints; the others look at the weights alone.",
            choices=controls.titles(),
            value=method.title,
        )
        controls.method_controls(form, host, method)


def buttons(form: Form, host: Host) -> None:
    """The name of the output, what starts and stops a job, and what it takes."""
    form.add(gr.HTML, "output", value="")
    with gr.Row(elem_id=elem_id("buttons")):
        form.add(gr.Button, "transfer", value="Transfer", variant="primary")
        form.add(gr.Button, "quick", value="Quick: weights only", visible=first_method(host).runs_models)
        form.add(gr.Button, "analyse", value="Analyse")
        form.add(gr.Button, "interrupt", value="Interrupt", variant="stop")
        form.add(gr.Button, "skip", value="Skip this LoRA")
    form.add(gr.HTML, "cost", value="")


def overview(form: Form) -> None:
    """The status of the job, the answer for each LoRA, and the pictures of a comparison."""
    form.add(gr.HTML, "status", value=status.idle())
    form.add(gr.HTML, "overview", value=render("empty"))
    # Answers to questions about the choice may come late, so they have places of their own. Those are hidden by our style
    # sheet while a job has something to show.
    form.add(gr.HTML, "pictures", value="")
    form.add(gr.HTML, "kept_pictures", value="")
    form.add(
        gr.Dropdown,
        "picker",
        label="Details of",
        info="The LoRA that is verified, and whose details are shown below.",
        choices=[],
        visible=False,
    )


def details(form: Form) -> None:
    """Everything about one LoRA."""
    form.add(gr.HTML, "details", value="")


def wire(form: Form, events: Any) -> None:
    """Connect the events of the view."""
    asked = ("question", *order_controls())
    form.on(form["refresh"].click, events.opened, asked, ("adapters", "target", "source", *ANSWERS))
    form.on(form["open"].click, events.restored, ("remembered", *asked), (*CHOICE, *ANSWERS))
    # What the tab says of the choice is asked for by our JavaScript alone, which numbers the questions.
    form.on(form["look"].click, events.looked, asked, ANSWERS)
    form.on(form["adapters"].change, events.sources, CHOICE, ("source",))
    form.on(form["from_card"].click, events.from_card, ("card", "adapters"), ("adapters",))
    form.on(form["method"].change, events.method, ("method",), ("quick", *controls.method_names()))

    starts = {
        "transfer": (events.start, "transfer"),
        "quick": (events.quick, "transfer"),
        "analyse": (events.quick, "analyse"),
    }
    for button, (begin, kind) in starts.items():
        start = functools.partial(begin, kind)
        form.on(form[button].click, start, ("job", *asked), ("job", "status", "target_line", *RESULTS))
    form.on(form["loadable"].click, events.make_load, ("job", "adapters", "target"), ("job", "status", *RESULTS))
    for name in ("poll", "interrupt", "skip"):
        form.on(form[name].click, getattr(events, name), ("job",), ("status",))
    form.on(form["picker"].input, events.details, ("job", "picker"), ("details",))
