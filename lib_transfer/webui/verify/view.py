"""The layout of the Verify panel."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.form import Form
from lib_transfer.webui.shell.gradio_compat import elem_id
from lib_transfer.webui.shell.html import note
from lib_transfer.webui.transfer.form import CHOICE
from lib_transfer.webui.verify.form import CLIP_SKIP, CONTROLS, INPUTS, NUMBERS, SIZE

ABOUT = (
    "Runs both checkpoints to measure whether the transferred LoRA does on the target what the original does on its own "
    "checkpoint. Your checkpoint is loaded again at the end."
)
FIRST = "Press Transfer first. The LoRA that it writes can then be verified."


def panel(form: Form, host: Host) -> None:
    """The panel; it is hidden where the program's models cannot be run."""
    visible = host.models is not None
    with gr.Accordion("Verify on the models", open=False, elem_id=elem_id("verification"), visible=visible):
        form.add(gr.HTML, "verify_about", value=note(ABOUT))
        info = "One per line. Empty: the trigger words and tags in the LoRA's metadata."
        form.add(gr.Textbox, "verify_prompts", label="Prompts", info=info, lines=2)
        with gr.Row():
            for label, of in (("Pictures", INPUTS), ("Size", SIZE), ("Clip skip", CLIP_SKIP)):
                form.add(gr.Number, f"verify_{of.name}", label=label, info=of.help, value=of.default, precision=0)
        form.add(gr.HTML, "verify_cost", value=note(FIRST))
        form.add(gr.Button, "verify", value="Verify")
    # Outside of what is folded, because it comes back by itself with a LoRA that was verified before.
    form.add(gr.HTML, "verified", value="", visible=visible)
    form.add(gr.HTML, "kept_verified", value="", visible=visible)


def wire(form: Form, events: Any) -> None:
    """Connect the events of the panel."""
    form.on(form["verify"].click, events.start, ("job", "picker", *CONTROLS), ("job", "status"))
    form.on(form["picker"].input, events.picked, ("job", "picker"), ("verified",))
    # A LoRA's verifications come back with it, also after another job, a reload of the page and a restart of the server.
    for trigger in (form["adapters"].change, form["target"].change, form["look"].click):
        form.on(trigger, events.chosen, CHOICE, ("kept_verified",))
    for name in NUMBERS:
        form.on(form[name].change, events.cost, NUMBERS, ("verify_cost",))
