"""The Batch view: what stands where, and which event does what. Target, source and method are those of the whole tab."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lib_transfer.webui.batch import html as table
from lib_transfer.webui.batch.events import BatchDesk
from lib_transfer.webui.batch.form import ANY_ALGORITHM, ANY_BASE, EVERYWHERE
from lib_transfer.webui.shell import status
from lib_transfer.webui.shell.gradio_compat import HIDDEN, control, elem_id, on
from lib_transfer.webui.transfer.events import Desk


@dataclass
class BatchView:
    """The controls of the view, by name."""

    parts: dict[str, Any] = field(default_factory=dict)

    def which(self) -> None:
        """The controls that say which LoRAs, in the page that is being built."""
        with gr.Row(elem_id=elem_id("batch_folder_row")):
            self._add(
                gr.Dropdown,
                "folder",
                label="Folder",
                info="the LoRAs to transfer: all, those of one folder, or a selection",
                choices=[EVERYWHERE],
                value=EVERYWHERE,
            )
            self._add(gr.Button, "refresh", value="Refresh", size="sm", min_width=90, scale=0)
        self._add(
            gr.Checkbox, "deeper", label="Sub-folders too", info="their layout is kept in the output folder", value=True
        )
        with gr.Row():
            self._filter("base", "Base", "only LoRAs for this architecture", ANY_BASE)
            self._filter("algorithm", "Algorithm", "only LoRAs written in this one", ANY_ALGORITHM)
        self._add(
            gr.Textbox,
            "name",
            label="Name",
            info="only LoRAs with this in their name; * and ? stand for any signs",
            value="",
        )

    def buttons(self) -> None:
        """What starts and stops a batch."""
        with gr.Row(elem_id=elem_id("batch_buttons")):
            self._add(gr.Button, "run", value="Run", variant="primary")
            self._add(gr.Button, "plan", value="Plan")
            self._add(gr.Button, "interrupt", value="Interrupt", variant="stop")

    def outputs(self) -> None:
        """What a batch comes to."""
        with gr.Column(elem_id=elem_id("batch_results")):
            self._add(gr.HTML, "status", value=status.IDLE)
            self._add(
                gr.Textbox,
                "filter",
                label="Show only",
                info="rows with this in them; press a heading to sort by it",
                value="",
            )
            self._add(gr.HTML, "rows", value=table.EMPTY)
            with gr.Row(elem_id=elem_id("batch_save_row")):
                self._add(gr.Button, "csv", value="Save as CSV", size="sm")
                self._add(gr.Button, "json", value="Save as JSON", size="sm")
            self._add(gr.HTML, "saved", value="")
            with gr.Column(elem_classes=[HIDDEN]):
                for name in ("job", "skipped"):
                    self._add(gr.Textbox, name, label=f"batch_{name}", value="")
                for name in ("open", "poll", "show", "skip"):
                    self._add(gr.Button, name, value=f"batch_{name}")

    def wire(self, desk: Desk, asked: list[Any]) -> None:
        """Connect the events; ``asked`` are the tab's controls: the LoRAs chosen, target, source, method and its settings."""
        events, part, job = BatchDesk(desk), self.parts, self.parts["job"]
        lists = [part["folder"], part["base"], part["algorithm"]]
        for trigger in (part["refresh"].click, part["open"].click):
            on(trigger, events.opened, lists, lists)
        which = [part[name] for name in ("folder", "deeper", "base", "algorithm", "name")]
        started = [job, part["status"], part["rows"], part["saved"]]
        for button, converts in ((part["plan"], False), (part["run"], True)):
            on(button.click, functools.partial(events.start, converts), [job, *which, *asked], started)
        on(part["interrupt"].click, events.interrupt, [job], [part["status"]])
        on(part["poll"].click, events.poll, [job], [part["status"]])
        on(part["show"].click, events.rows, [job], [part["rows"]])
        on(part["skip"].click, events.skip, [job, part["skipped"]], [part["rows"]])
        for kind in ("csv", "json"):
            on(part[kind].click, functools.partial(events.saved, kind), [job], [part["saved"]])

    def _add(self, kind: Any, name: str, **options: Any) -> None:
        self.parts[name] = control(kind, f"batch_{name}", **options)

    def _filter(self, name: str, label: str, info: str, anything: str) -> None:
        self._add(gr.Dropdown, name, label=label, info=info, choices=[anything], value=anything, min_width=140)
