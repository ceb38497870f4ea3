"""The controls of a verification beside the results, and what happens at their events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lib_transfer import methods as registry
from lib_transfer.errors import RequestError
from lib_transfer.methods import Parameter
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.gradio_compat import control, elem_id, on
from lib_transfer.webui.transfer.events import Desk, Start, told
from lib_transfer.webui.transfer.html import note
from lib_transfer.webui.verify.html import verdicts
from lib_transfer.webui.verify.job import VerifyJob
from lib_transfer.webui.verify.work import Verification, subject_of

ABOUT = (
    "Runs both checkpoints and says whether the transferred LoRA does on the target what the original does on its own. "
    "Your checkpoint is loaded again at the end."
)
FIRST = "Press Transfer first; what it wrote can be verified."
LONGEST, MOST_PROMPTS = 2000, 32
"""Characters of a prompt, and prompts: what is more comes from no page of ours."""

_INPUTS = Parameter("inputs", "whole", 8, "more are surer and take longer", minimum=1, maximum=64)
_SIZE = Parameter(
    "size", "whole", 0, "of the pictures; 0: what the checkpoints were trained on", minimum=0, maximum=2048
)


@dataclass
class Controls:
    """What stands in the panel.

    Attributes:
        asked: prompts, number of inputs, size, and whether to improve.
        cost: what it will take, in words.
        button: starts it.
        verdicts: the result.
    """

    asked: list[Any]
    cost: Any
    button: Any
    verdicts: Any


def controls(host: Host) -> Controls:
    """The panel; not shown where the program's models cannot be run."""
    with gr.Accordion("Verify on the models", open=False, elem_id=elem_id("verification"), visible=host.runs()):
        control(gr.HTML, "verify_about", value=note(ABOUT))
        prompts = control(
            gr.Textbox,
            "verify_prompts",
            label="Prompts",
            info="one a line; empty: the LoRA's own trigger words and tags",
            lines=2,
        )
        with gr.Row():
            numbers = [
                control(gr.Number, f"verify_{of.name}", label=label, info=of.help, value=of.default, precision=0)
                for label, of in (("Inputs", _INPUTS), ("Size", _SIZE))
            ]
        improve = control(
            gr.Checkbox,
            "verify_improve",
            label="Look for a better one",
            info="fits and trains others to the original's movement, and saves the best if it clearly beats plain reuse",
            value=False,
        )
        cost = control(gr.HTML, "verify_cost", value=note(FIRST))
        button = control(gr.Button, "verify", value="Verify")
        shown = control(gr.HTML, "verified", value="")
    return Controls([prompts, *numbers, improve], cost, button, shown)


@dataclass(frozen=True)
class Verify:
    """The events of the panel.

    Attributes:
        desk: of the tab.
        seconds: that a run of a model took the last time, by size.
    """

    desk: Desk
    seconds: dict[int, float] = field(default_factory=dict)

    def wire(self, parts: Controls, job: Any, picker: Any, status: Any, show: Any) -> None:
        """Connect the panel.

        Args:
            parts: of the panel.
            job: the control with the window's job.
            picker: the list of LoRAs whose details can be shown.
            status: the job's status.
            show: the button that our javascript presses when there is something new.
        """
        on(parts.button.click, self.start, [job, picker, *parts.asked], [job, status])
        on(show.click, self.shown, [job], [parts.verdicts])
        numbers = parts.asked[1:]
        for made in numbers:
            on(made.change, self.cost, numbers, [parts.cost])
        # Not when the tab is opened, which would import torch: before a transfer there is nothing to verify.
        on(show.click, self.cost, numbers, [parts.cost])

    def start(self, job_id: object, picked: object, *values: Any) -> tuple[Any, Any]:
        """Start a verification of the LoRA whose details are shown."""
        host = self.desk.host

        def prepare() -> Start:
            prompts, number, size, improve = asked(*values)
            before = self.desk.board.get(job_id)
            outcomes = list(before.outcomes) if before is not None else []
            chosen = next((o for o in outcomes if o.name == picked), next(iter(outcomes), None))
            subject = subject_of(chosen, host, self.desk.index)
            work = Verification(
                subject, prompts, number, (size, size), improve, host, lambda took: self.seconds.update({size: took})
            )
            # The models are the program's own, on whatever device.
            return Start(VerifyJob(subject.lora, outcomes), work, in_turn=True)

        job, said, *_ = self.desk.begin(job_id, prepare)
        # Where none was started, what the last job came to stays.
        return job or gr.update(), said

    def shown(self, job_id: object) -> str:
        """The result of a verification; nothing for other jobs."""
        job = self.desk.board.get(job_id)
        return _told_verdicts(job.verified if isinstance(job, VerifyJob) else None)

    def cost(self, number: object, size: object, improve: object) -> str:
        """What a verification will take."""
        return _cost(number, size, improve, self.seconds)


_told_verdicts = told(verdicts)


@told
def _cost(number: object, size: object, improve: object, seconds: dict[int, float]) -> str:
    from lib_transfer.evaluation.verification import cost  # noqa: PLC0415 - torch is imported when it is used

    _, checked, side, better = asked("", number, size, improve)
    return note(cost(checked, seconds_per_run=seconds.get(side), improve=better))


def asked(prompts: object, number: object, size: object, improve: object) -> tuple[tuple[str, ...], int, int, bool]:
    """The controls' values, which come from a browser.

    Raises:
        RequestError: one is missing, of the wrong kind or out of its range.
    """
    if not isinstance(prompts, str) or len(prompts) > LONGEST * MOST_PROMPTS:
        raise RequestError("The prompts are no text, or longer than any model reads.")
    lines = tuple(line.strip()[:LONGEST] for line in prompts.splitlines() if line.strip())[:MOST_PROMPTS]
    values = [registry.checked(of, value) for of, value in ((_INPUTS, number), (_SIZE, size))]
    inputs, side = (int(value) for value in values)
    if not isinstance(improve, bool):
        raise RequestError("Whether to look for a better one is neither yes nor no.")
    return lines, inputs, side, improve
