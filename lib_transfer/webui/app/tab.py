"""The tab: what stands where, and which event does what. Knows no program; everything goes through the desk."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_transfer import methods as registry
from lib_transfer.methods import Method
from lib_transfer.webui.batch.view import BatchView
from lib_transfer.webui.compare import view as panel
from lib_transfer.webui.compare.view import Controls
from lib_transfer.webui.shell import controls, status
from lib_transfer.webui.shell.gradio_compat import HIDDEN, blocks, control, elem_id, on
from lib_transfer.webui.transfer import html as results
from lib_transfer.webui.transfer.events import Desk
from lib_transfer.webui.transfer.form import ACTIVE, AUTOMATIC
from lib_transfer.webui.verify import view as verify_panel

TITLE = "Transfer LoRA"
ELEM_ID = "transfer_lora"


@dataclass
class _Parts:
    """The controls that events go between."""

    adapters: Any
    refresh: Any
    chosen: Any
    output: Any
    target: Any
    target_line: Any
    source: Any
    method: Any
    values: list[Any]
    transfer: Any
    analyse: Any
    compare: Controls
    verify: verify_panel.Controls
    batch: BatchView
    interrupt: Any
    skip: Any
    status: Any
    pictures: Any
    overview: Any
    picker: Any
    details: Any
    signals: dict[str, Any]

    @property
    def asked(self) -> list[Any]:
        """What a job is started with."""
        return [self.adapters, self.target, self.source, self.method, *self.values]

    @property
    def lists(self) -> list[Any]:
        """The three lists."""
        return [self.adapters, self.target, self.source]

    @property
    def choice(self) -> list[Any]:
        """What texts about the choice depend on."""
        return [*self.lists, self.method]


def tab(desk: Desk) -> gr.Blocks:
    """The tab. Lists no folder and reads no file: the page asks for the lists when the tab is first looked at."""
    method = registry.get(str(desk.host.setting("method")))
    with blocks() as page, gr.Column(elem_id=elem_id("root")):
        with gr.Row(elem_id=elem_id("columns")):
            with gr.Column(elem_id=elem_id("inputs"), min_width=320):
                inputs = _inputs(desk, method)
            with gr.Column(elem_id=elem_id("results"), min_width=320):
                with gr.Column(elem_id=elem_id("transfer_results")):
                    outputs = _outputs(desk)
                inputs["batch"].outputs()
        parts = _Parts(**inputs, **outputs, signals=_signals())
        _wire(desk, parts)
    return page


def _inputs(desk: Desk, method: Method) -> dict[str, Any]:
    made: dict[str, Any] = {"batch": BatchView()}
    with gr.Tabs(elem_id=elem_id("views")):
        with gr.TabItem("Transfer", elem_id=elem_id("view_transfer")):
            _adapters(made)
        with gr.TabItem("Batch", elem_id=elem_id("view_batch")):
            made["batch"].which()
    made["target"] = control(
        gr.Dropdown,
        "target",
        label="Target checkpoint",
        info="the checkpoint that the LoRAs are to work on",
        choices=[ACTIVE],
        value=ACTIVE,
    )
    made["target_line"] = control(gr.HTML, "target_line", value="")
    made["source"] = control(
        gr.Dropdown,
        "source",
        label="Source checkpoint",
        info="the checkpoint that the LoRAs were trained on; found from their metadata",
        choices=[AUTOMATIC],
        value=AUTOMATIC,
    )
    with gr.Accordion("Advanced options", open=False, elem_id=elem_id("advanced")):
        made["method"] = control(
            gr.Radio,
            "method",
            label="Method",
            info="how an update is carried; Rotation loses nothing, Reuse keeps it as it is",
            choices=controls.titles(),
            value=method.title,
        )
        made["values"] = controls.method_controls(desk.host, method)
    made["output"] = control(gr.HTML, "output", value="")
    with gr.Row(elem_id=elem_id("buttons")):
        made["transfer"] = control(gr.Button, "transfer", value="Transfer", variant="primary")
        made["analyse"] = control(gr.Button, "analyse", value="Analyse")
        made["interrupt"] = control(gr.Button, "interrupt", value="Interrupt", variant="stop")
        made["skip"] = control(gr.Button, "skip", value="Skip this LoRA")
    made["batch"].buttons()
    made["compare"] = panel.controls(desk.host)
    return made


def _adapters(made: dict[str, Any]) -> None:
    with gr.Row(elem_id=elem_id("adapters_row")):
        made["adapters"] = control(
            gr.Dropdown,
            "adapters",
            label="LoRAs",
            info="the LoRAs to transfer; type to search by name, base or rank",
            choices=[],
            value=[],
            multiselect=True,
        )
        made["refresh"] = control(gr.Button, "refresh", value="Refresh", size="sm", min_width=90, scale=0)
    made["chosen"] = control(gr.HTML, "chosen", value="")


def _outputs(desk: Desk) -> dict[str, Any]:
    return {
        "status": control(gr.HTML, "status", value=status.IDLE),
        "pictures": control(gr.HTML, "pictures", value=""),
        "overview": control(gr.HTML, "overview", value=results.EMPTY),
        "picker": control(
            gr.Dropdown,
            "picker",
            label="Details of",
            info="the LoRA whose heat map and modules are shown below",
            choices=[],
            visible=False,
        ),
        "verify": verify_panel.controls(desk.host),
        "details": control(gr.HTML, "details", value=""),
    }


def _signals() -> dict[str, Any]:
    """What our javascript writes into and presses."""
    with gr.Column(elem_classes=[HIDDEN]):
        made = {name: control(gr.Textbox, name, label=name, value="") for name in ("job", "card")}
        for name in ("open", "poll", "show", "look", "from_card"):
            made[name] = control(gr.Button, name, value=name)
    return made


def _wire(desk: Desk, parts: _Parts) -> None:
    signals = parts.signals
    choice, about = parts.choice, [parts.chosen, parts.output]
    for trigger in (parts.refresh.click, signals["open"].click):
        on(trigger, desk.opened, choice, [*parts.lists, parts.target_line, *about])
    on(parts.adapters.change, desk.chosen, choice, [*about, parts.source])
    for made in choice[1:]:
        on(made.change, desk.about, choice, about)
    on(parts.target.change, desk.target, [parts.target], [parts.target_line])
    on(signals["look"].click, desk.looked, choice, [parts.target_line, *about])
    on(signals["from_card"].click, desk.from_card, [signals["card"], parts.adapters], [parts.adapters])
    on(parts.method.change, desk.method, [parts.method], parts.values)

    results_of_job = [parts.overview, parts.picker, parts.details]
    started = [signals["job"], parts.status, *results_of_job]
    for button, kind in ((parts.transfer, "transfer"), (parts.analyse, "analyse")):
        on(button.click, functools.partial(desk.start, kind), [signals["job"], *parts.asked], started)
    on(parts.interrupt.click, desk.interrupt, [signals["job"]], [parts.status])
    on(parts.skip.click, desk.skip, [signals["job"]], [parts.status])
    on(signals["poll"].click, desk.poll, [signals["job"]], [parts.status])
    on(signals["show"].click, desk.results, [signals["job"], parts.picker], results_of_job)
    panel.Compare(desk).wire(parts.compare, signals["job"], parts.asked, started, parts.pictures, signals["show"])
    verify_panel.Verify(desk).wire(parts.verify, signals["job"], parts.picker, parts.status, signals["show"])
    parts.batch.wire(desk, parts.asked)
    on(parts.picker.input, desk.details, [signals["job"], parts.picker], [parts.details])
