"""What happens at each event of the Transfer view."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import TransferError
from lib_transfer.library.outputs import Outputs
from lib_transfer.webui.shell import controls
from lib_transfer.webui.shell.events import Start, TabEvents, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded
from lib_transfer.webui.shell.jobs import Job, Kind
from lib_transfer.webui.transfer import html
from lib_transfer.webui.transfer.choice import Choice
from lib_transfer.webui.transfer.form import by_weights, method_of, order, remembered
from lib_transfer.webui.transfer.known import answers
from lib_transfer.webui.transfer.lists import Lists
from lib_transfer.webui.transfer.loading import Loading, in_need
from lib_transfer.webui.transfer.work import Work, runtime


def emptied() -> dict[str, Any]:
    """The results of the last job taken away."""
    return {"overview": "", "picker": gr.update(choices=[], value=None, visible=False), "details": ""}


class TransferEvents(ViewEvents):
    """The events of the view."""

    def __init__(self, tab: TabEvents) -> None:
        super().__init__(tab)
        self._outputs = Outputs(tab.index)
        self._lists, self._choice = Lists(tab.host, tab.index), Choice(tab.host, tab.index, tab.run_seconds)

    # The choice.

    def opened(self, values: FormValues) -> dict[str, Any]:
        """The lists and the texts about the choice, when the tab is first looked at or refreshed."""
        return {**self._lists.all(values), **self.looked(values)}

    def restored(self, values: FormValues) -> dict[str, Any]:
        """The same when a page is loaded: with what its window had chosen before, as far as that is still there."""
        choice = remembered(values["remembered"])
        updates = self.opened({**values, **choice})
        for name in ("target", "source"):
            if choice.get(name) in updates[name].get("choices", ()):
                updates[name] = {**updates[name], "value": choice[name]}
        if choice.get("method") in controls.titles():
            updates["method"] = choice["method"]
        return updates

    def from_card(self, values: FormValues) -> dict[str, Any]:
        """The list with the LoRA of a card of the WebUI chosen."""
        return self._lists.from_card(values)

    def sources(self, values: FormValues) -> dict[str, Any]:
        """The sources that the chosen LoRAs can have."""
        return self._lists.sources(values)

    def method(self, values: FormValues) -> dict[str, Any]:
        """The controls of the method shown, and those of the others hidden."""
        try:
            method = method_of(values["method"])
        except TransferError:
            return {}
        return {**controls.visible_for(method), "quick": gr.update(visible=method.runs_models)}

    def looked(self, values: FormValues) -> dict[str, Any]:
        """What is known of the target and the LoRAs, and what a transfer would come to.

        The page numbers its questions, and asks again until it shows the answer to the last one: answers may arrive in any
        order, and one to an earlier question may tell of another target.
        """
        return {**self._choice.target(values), **self._choice.about(values)}

    # Jobs.

    def quick(self, kind: Kind, values: FormValues) -> dict[str, Any]:
        """Start a job that looks at the weights alone, whatever method is chosen."""
        return self.start(kind, by_weights(values))

    def start(self, kind: Kind, values: FormValues) -> dict[str, Any]:
        """Start a job on the chosen LoRAs; the target's line tells which one it is for."""

        def prepare() -> Start:
            wanted = order(values, self.host)
            work = Work(wanted, self.host, self.tab.index, self.tab.once)
            # Where the program runs the models, the job needs its queue on every device.
            in_queue = wanted.method.runs_models or on_gpu(runtime(self.host))
            return Start(Job(kind, tuple(wanted.adapters)), work, in_queue=in_queue)

        updates = {**self.begin(values, prepare), **self._choice.target(values)}
        return {**updates, **emptied()} if self.job_name in updates else updates

    def make_load(self, values: FormValues) -> dict[str, Any]:
        """Start the job that makes those of the chosen LoRAs load that may not as they are."""

        def prepare() -> Start:
            found = in_need(values["adapters"], self.host, self.tab.index)
            target = ""
            with contextlib.suppress(TransferError):
                target = self._choice.architecture(values["target"])
            return Start(
                Job("convert", tuple(found)), Loading(found, self.host, self.tab.index, target), in_queue=False
            )

        updates = self.begin(values, prepare)
        return {**updates, **emptied()} if self.job_name in updates else updates

    def results(self, values: FormValues) -> dict[str, Any]:
        """The answers, the LoRAs whose details can be shown, and the details of the first."""
        job = self.job(values)
        outcomes = list(job.outcomes) if job else []
        names = [outcome.name for outcome in outcomes]
        overview = guarded(self._overview)(outcomes)
        if not names:
            return {**emptied(), "overview": overview}
        # Details are large: those on the page stay as they are while further LoRAs come in.
        if values["picker"] in names:
            return {"overview": overview, "picker": gr.update(choices=names, visible=len(names) > 1)}
        picker = gr.update(choices=names, value=names[0], visible=len(names) > 1)
        return {"overview": overview, "picker": picker, **self.details({**values, "picker": names[0]})}

    def _overview(self, outcomes: Sequence[Outcome]) -> Markup:
        return html.overview(answers(outcomes, self._outputs, self.tab), compares=self.host.pictures is not None)

    def details(self, values: FormValues) -> dict[str, Any]:
        """Everything about one LoRA of a job."""
        job = self.job(values)
        outcome = next((o for o in (job.outcomes if job else ()) if o.name == values["picker"]), None)
        return {"details": guarded(html.details)(outcome)}


def on_gpu(run: Runtime) -> bool:
    """Whether a transfer computes on the GPU."""
    return run.torch_device.type == "cuda"
