"""The tab: the layouts of the views put together, and their events connected."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_transfer.webui.app.late import LateEvents
from lib_transfer.webui.batch import view as batch
from lib_transfer.webui.compare import view as compare
from lib_transfer.webui.shell.form import Form
from lib_transfer.webui.shell.gradio_compat import HIDDEN, blocks, elem_id
from lib_transfer.webui.shell.html import render
from lib_transfer.webui.transfer import view as transfer
from lib_transfer.webui.transfer.form import CHOICE, RESULTS
from lib_transfer.webui.verify import view as verify
from lib_transfer.webui.verify.form import NUMBERS

TITLE = "Transfer LoRA"
ELEM_ID = "transfer_lora"


def tab(events: LateEvents) -> gr.Blocks:
    """The tab. Building it lists no folder and reads no file: the page asks for lists when the tab is first looked at."""
    with blocks() as page, gr.Column(elem_id=elem_id("root")):
        form = Form(events.host)
        with gr.Row(elem_id=elem_id("columns")):
            with gr.Column(elem_id=elem_id("inputs"), min_width=320):
                _inputs(form, events)
            with gr.Column(elem_id=elem_id("results"), min_width=320):
                form.add(gr.HTML, "away", value=render("away"))
                with gr.Column(elem_id=elem_id("transfer_results")):
                    transfer.overview(form)
                    verify.panel(form, events.host)
                    transfer.details(form)
                batch.results(form)
        _signals(form)
        transfer.wire(form, events.of("transfer"))
        compare.wire(form, events.of("compare"))
        verify.wire(form, events.of("verify"))
        batch.wire(form, events.of("batch"))
        _wire_results(form, events.of("results"))
    return page


def _inputs(form: Form, events: LateEvents) -> None:
    with gr.Tabs(elem_id=elem_id("views")):
        with gr.TabItem("Transfer", elem_id=elem_id("view_transfer")):
            transfer.adapters(form)
        with gr.TabItem("Batch", elem_id=elem_id("view_batch")):
            batch.which(form)
    transfer.request(form, events.host)
    transfer.buttons(form, events.host)
    batch.buttons(form)
    compare.panel(form, events.host)


def _wire_results(form: Form, events: Any) -> None:
    """Bring the results of every view and the status in one event."""
    given = ("job", "picker", *CHOICE, *NUMBERS)
    shown = ("status", *RESULTS, "pictures", "kept_pictures", "verified", "kept_verified", "verify_cost")
    form.on(form["show"].click, events.shown, given, shown)


def _signals(form: Form) -> None:
    """The controls that our JavaScript writes into and presses."""
    with gr.Column(elem_classes=[HIDDEN]):
        for name in ("job", "card", "question", "remembered"):
            form.add(gr.Textbox, name, label=name, value="")
        for name in ("open", "poll", "show", "look", "from_card"):
            form.add(gr.Button, name, value=name)
