"""The layout of the Batch view. Target, source and method are those of the Transfer view."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

from lib_transfer.webui.batch.form import ANY_ALGORITHM, ANY_BASE, EVERYWHERE, batch_controls
from lib_transfer.webui.shell import status
from lib_transfer.webui.shell.form import Form
from lib_transfer.webui.shell.gradio_compat import HIDDEN, elem_id
from lib_transfer.webui.shell.html import render


def which(form: Form) -> None:
    """The controls that say which LoRAs to transfer."""
    with gr.Row(elem_id=elem_id("batch_folder_row")):
        form.add(
            gr.Dropdown,
            "batch_folder",
            label="Folder",
            info="The LoRAs to transfer: all, those of one folder, or those chosen under Transfer.",
            choices=[EVERYWHERE],
            value=EVERYWHERE,
        )
        form.add(gr.Button, "batch_refresh", value="Refresh", size="sm", min_width=90, scale=0)
    info = "Also transfer the LoRAs in its sub-folders. The output folder gets the same sub-folders."
    form.add(gr.Checkbox, "batch_deeper", label="Include sub-folders", info=info, value=True)
    with gr.Row():
        for name, label, info, anything in (
            ("batch_base", "Base", "Only LoRAs for this base model.", ANY_BASE),
            ("batch_algorithm", "Algorithm", "Only LoRAs of this algorithm.", ANY_ALGORITHM),
        ):
            form.add(gr.Dropdown, name, label=label, info=info, choices=[anything], value=anything, min_width=140)
    info = "Only LoRAs whose name contains this text. * matches any text, ? any one character."
    form.add(gr.Textbox, "batch_name", label="Name", info=info, value="")
    info = (
        "Only LoRAs that may not load as they are, each written for its own base: other names and layout, the same numbers. "
        "Target, source and method play no part."
    )
    form.add(gr.Checkbox, "batch_loadable", label="Make them load", info=info, value=False)


def buttons(form: Form) -> None:
    """What starts and stops a batch."""
    with gr.Row(elem_id=elem_id("batch_buttons")):
        form.add(gr.Button, "batch_run", value="Run", variant="primary")
        form.add(gr.Button, "batch_plan", value="Plan")
        form.add(gr.Button, "batch_interrupt", value="Interrupt", variant="stop")


def results(form: Form) -> None:
    """The status and the table of a batch, and what our JavaScript writes into and presses."""
    with gr.Column(elem_id=elem_id("batch_results")):
        form.add(gr.HTML, "batch_status", value=status.idle())
        info = "Only rows that contain this text. Press a heading to sort by it, a name for the details."
        form.add(gr.Textbox, "batch_filter", label="Show only", info=info, value="")
        form.add(gr.HTML, "batch_rows", value=render("batch_empty"))
        form.add(gr.HTML, "batch_details", value="")
        with gr.Row(elem_id=elem_id("batch_save_row")):
            form.add(gr.Button, "batch_csv", value="Save as CSV", size="sm")
            form.add(gr.Button, "batch_json", value="Save as JSON", size="sm")
        form.add(gr.HTML, "batch_saved", value="")
        with gr.Column(elem_classes=[HIDDEN]):
            for name in ("batch_job", "batch_skipped", "batch_detailed"):
                form.add(gr.Textbox, name, label=name, value="")
            for name in ("batch_open", "batch_poll", "batch_show", "batch_show_details", "batch_skip"):
                form.add(gr.Button, name, value=name)


def wire(form: Form, events: Any) -> None:
    """Connect the events of the view."""
    lists = ("batch_folder", "batch_base", "batch_algorithm")
    for name in ("batch_refresh", "batch_open"):
        form.on(form[name].click, events.opened, lists, lists)
    started = ("batch_job", "batch_status", "batch_rows", "batch_details", "batch_saved")
    for name, converts in (("batch_plan", False), ("batch_run", True)):
        start = functools.partial(events.start, converts)
        form.on(form[name].click, start, ("batch_job", *batch_controls()), started)
    for name in ("poll", "interrupt"):
        form.on(form[f"batch_{name}"].click, getattr(events, name), ("batch_job",), ("batch_status",))
    form.on(form["batch_show"].click, events.shown, ("batch_job",), ("batch_status", "batch_rows"))
    form.on(form["batch_show_details"].click, events.details, ("batch_job", "batch_detailed"), ("batch_details",))
    form.on(form["batch_skip"].click, events.skip, ("batch_job", "batch_skipped"), ("batch_rows",))
    for kind in ("csv", "json"):
        saved = functools.partial(events.saved, kind)
        form.on(form[f"batch_{kind}"].click, saved, ("batch_job",), ("batch_saved",))
