"""The controls of a comparison in the tab, and what happens at their events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_transfer import methods as registry
from lib_transfer.errors import RequestError
from lib_transfer.webui.compare.form import FIELDS, Field, scene
from lib_transfer.webui.compare.html import gallery
from lib_transfer.webui.compare.work import Comparison, steps
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.gradio_compat import HIDDEN, control, elem_id, on
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.events import Desk, Start, told
from lib_transfer.webui.transfer.form import Asked, order
from lib_transfer.webui.transfer.work import Work

TAKE = (
    '<button type="button" class="transfer-lora-small" data-transfer-lora="take">Take the settings of txt2img</button>'
)


@dataclass
class Controls:
    """What stands in the panel.

    Attributes:
        scene: the controls of a scene, in its order.
        button: starts a comparison.
        taken, take: what our javascript writes the values of txt2img into, and presses.
    """

    scene: list[Any]
    button: Any
    taken: Any
    take: Any


def controls(host: Host) -> Controls:
    """The panel; not shown where the program makes no pictures."""
    with gr.Accordion("Compare pictures", open=False, elem_id=elem_id("comparison"), visible=host.draws()):
        prompt = control(
            gr.Textbox,
            "prompt",
            label="Prompt",
            info="of all pictures; a tag of the LoRA in it keeps its weights, else one is added",
            lines=2,
        )
        negative = control(gr.Textbox, "negative", label="Negative prompt", info="of all pictures", lines=1)
        with gr.Row():
            samplers = list(host.samplers())
            sampler = control(
                gr.Dropdown,
                "sampler",
                label="Sampler",
                info="of all pictures",
                choices=samplers,
                value=next(iter(samplers), None),
                min_width=160,
            )
            numbers = [_number(field) for field in FIELDS[:3]]
        with gr.Row():
            numbers += [_number(field) for field in FIELDS[3:]]
        control(gr.HTML, "take_line", value=TAKE)
        button = control(gr.Button, "compare", value="Compare")
        with gr.Column(elem_classes=[HIDDEN]):
            taken = control(gr.Textbox, "taken", label="taken", value="")
            take = control(gr.Button, "take", value="take")
    return Controls([prompt, negative, sampler, *numbers], button, taken, take)


def _number(field: Field) -> Any:
    of = field.parameter
    whole = {"precision": 0} if of.kind == "whole" else {}
    return control(gr.Number, of.name, label=field.label, info=of.help, value=of.default, min_width=100, **whole)


@dataclass(frozen=True)
class Compare:
    """The events of the panel."""

    desk: Desk

    def wire(
        self, parts: Controls, job: Any, asked: Sequence[Any], started: Sequence[Any], pictures: Any, show: Any
    ) -> None:
        """Connect the panel.

        Args:
            parts: of the panel.
            job: the control with the window's job.
            asked: the controls that say what to transfer.
            started: the controls that a job's start changes.
            pictures: where the pictures go.
            show: the button that our javascript presses when there is something new.
        """
        on(parts.button.click, self.start, [job, *asked, *parts.scene], [*started, pictures])
        on(show.click, self.pictures, [job], [pictures])
        on(parts.take.click, self.take, [parts.taken], parts.scene)

    def start(self, job_id: object, *values: Any) -> tuple[Any, ...]:
        """Start a comparison."""
        host, count = self.desk.host, 3 + len(FIELDS)

        def prepare() -> Start:
            asked, look = values[:-count], scene(values[-count:], host)
            wanted = order(Asked(*asked[:4], values=asked[4:]), host)
            work = Work(wanted, host, self.desk.index, self.desk.once)
            job = Job("compare", steps(tuple(wanted.adapters)))
            # Making pictures is the program's own work, on whatever device.
            return Start(job, Comparison(wanted, look, host, work), True)

        return *self.desk.begin(job_id, prepare), ""

    def pictures(self, job_id: object) -> str:
        """The pictures that a job has made so far."""
        job = self.desk.board.get(job_id)
        return _told_gallery(list(job.pictures) if job else [])

    def take(self, taken: object) -> list[Any]:
        """The controls with the values of txt2img, as our javascript read them; what is no value changes nothing."""
        try:
            given = json.loads(taken) if isinstance(taken, str) else None
        except ValueError:
            given = None
        given = given if isinstance(given, dict) else {}
        texts = [given.get(name) for name in ("prompt", "negative")]
        sampler = given.get("sampler")
        updates = [gr.update(value=text) if isinstance(text, str) else gr.update() for text in texts]
        updates.append(gr.update(value=sampler) if sampler in self.desk.host.samplers() else gr.update())
        return [*updates, *(_update(field, given.get(field.parameter.name)) for field in FIELDS)]


_told_gallery = told(gallery)


def _update(field: Field, value: Any) -> Any:
    if value is not None:
        with contextlib.suppress(RequestError):
            return gr.update(value=registry.checked(field.parameter, value))
    return gr.update()
