"""What happens at each event of the Verify panel."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import RequestError
from lib_transfer.evaluation.runs import expected_cost
from lib_transfer.webui.host import files
from lib_transfer.webui.shell.events import Start, TabEvents, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded, note
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.form import chosen_names, target_of
from lib_transfer.webui.verify.form import verify_order
from lib_transfer.webui.verify.html import verdicts
from lib_transfer.webui.verify.job import VerifyJob
from lib_transfer.webui.verify.kept import KeptVerifications, with_kept
from lib_transfer.webui.verify.work import Verification, subject_of


class VerifyEvents(ViewEvents):
    """The events of the panel."""

    def __init__(self, tab: TabEvents) -> None:
        super().__init__(tab)
        self._kept = KeptVerifications(self.host, tab.index)

    def start(self, values: FormValues) -> dict[str, Any]:
        """Start a verification of the LoRA whose details are shown."""

        def prepare() -> Start:
            if self.host.models is None:
                raise RequestError("No models can be run here.", hint="Open the tab in A1111 or Forge.")
            asked = verify_order(values)
            before = self.job(values)
            outcomes = list(before.outcomes) if before is not None else []
            subject = subject_of(_picked(before, values), self.host, self.tab.index)

            def took(seconds: float) -> None:
                self.tab.run_seconds[asked.size] = seconds

            work = Verification(subject, asked.prompts, asked.inputs, asked.size, asked.clip_skip, self.host, took)
            # The program runs the models, so the job needs its queue on every device.
            return Start(VerifyJob(subject.lora, subject.transferred, outcomes), work, in_queue=True)

        updates = self.begin(values, prepare)
        # Where no job was started, the results of the last one stay.
        return {name: value for name, value in updates.items() if value}

    def shown(self, values: FormValues) -> dict[str, Any]:
        """What a verification came to, and what is kept of the LoRA's earlier ones; after other jobs these alone.

        And what is kept of the chosen LoRA, which the page shows where there is nothing else.
        """
        job = self.job(values)
        found = self.picked(values)
        if isinstance(job, VerifyJob) and job.verified is not None:
            kept = self._kept.of(job.verified.lora, job.output, job.verified.target)
            found = {"verified": guarded(verdicts)(with_kept(job.verified, kept))}
        return {**found, **self.chosen(values)}

    def picked(self, values: FormValues) -> dict[str, Any]:
        """What is kept of the verifications of the LoRA whose details are shown."""
        return {"verified": guarded(self._of_details)(values)}

    def chosen(self, values: FormValues) -> dict[str, Any]:
        """What is kept of the verifications of the chosen LoRA for the target."""
        return {"kept_verified": guarded(self._of_choice)(values)}

    def _of_details(self, values: FormValues) -> Markup | str:
        outcome = _picked(self.job(values), values)
        if outcome is None or outcome.path is None:
            return ""
        return verdicts(self._kept.of(outcome.name, outcome.path, outcome.target))

    def _of_choice(self, values: FormValues) -> Markup | str:
        if self.host.models is None:
            return ""
        names = files.adapters(self.host.adapter_folders())
        chosen = {name: names[name] for name in chosen_names(values["adapters"], names)}
        try:
            target = target_of(values["target"], self.host)
        except RequestError:
            # What is wrong with the target is said where it is chosen.
            return ""
        return verdicts(self._kept.first(chosen, target), "transfer_lora_kept_verdicts")

    def cost(self, values: FormValues) -> dict[str, Any]:
        """What a verification will cost."""
        return {"verify_cost": guarded(self._cost)(values)}

    def _cost(self, values: FormValues) -> Markup:
        # What a run costs does not depend on the others.
        asked = verify_order({"verify_prompts": "", "verify_clip_skip": 0, **values})
        seconds = self.tab.run_seconds.get(asked.size)
        return note(expected_cost(asked.inputs, seconds_per_run=seconds))


def _picked(job: Job | None, values: FormValues) -> Outcome | None:
    """The LoRA of a job whose details are shown: the first, unless another one was picked."""
    outcomes = list(job.outcomes) if job is not None else []
    return next((each for each in outcomes if each.name == values["picker"]), next(iter(outcomes), None))
