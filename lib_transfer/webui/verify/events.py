"""What happens at each event of the Verify panel."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from lib_transfer.errors import RequestError
from lib_transfer.evaluation.verification import cost
from lib_transfer.webui.shell.events import Start, TabEvents, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded, note
from lib_transfer.webui.verify.form import verify_order
from lib_transfer.webui.verify.html import verdicts
from lib_transfer.webui.verify.job import VerifyJob
from lib_transfer.webui.verify.work import Verification, subject_of


class VerifyEvents(ViewEvents):
    """The events of the panel.

    Attributes:
        seconds: how long a run of a model took the last time, by the side of the pictures.
    """

    def __init__(self, tab: TabEvents) -> None:
        super().__init__(tab)
        self.seconds: dict[int, float] = {}

    def start(self, values: FormValues) -> dict[str, Any]:
        """Start a verification of the LoRA whose details are shown."""

        def prepare() -> Start:
            if self.host.models is None:
                raise RequestError("No models can be run here.", hint="Open the tab in A1111 or Forge.")
            asked = verify_order(values)
            before = self.job(values)
            outcomes = list(before.outcomes) if before is not None else []
            picked = next((o for o in outcomes if o.name == values["picker"]), next(iter(outcomes), None))
            subject = subject_of(picked, self.host, self.tab.index)
            size = (asked.size, asked.size)

            def took(seconds: float) -> None:
                self.seconds[asked.size] = seconds

            work = Verification(subject, asked.prompts, asked.inputs, size, asked.improve, self.host, took)
            # The program runs the models, so the job needs its queue on every device.
            return Start(VerifyJob(subject.lora, outcomes), work, in_queue=True)

        updates = self.begin(values, prepare)
        # Where no job was started, the results of the last one stay.
        return {name: value for name, value in updates.items() if value}

    def shown(self, values: FormValues) -> dict[str, Any]:
        """The result of a verification; nothing for other jobs."""
        job = self.job(values)
        return {"verified": guarded(verdicts)(job.verified if isinstance(job, VerifyJob) else None)}

    def cost(self, values: FormValues) -> dict[str, Any]:
        """What a verification will cost."""
        return {"verify_cost": guarded(self._cost)(values)}

    def _cost(self, values: FormValues) -> Markup:
        asked = verify_order(values)
        return note(cost(asked.inputs, seconds_per_run=self.seconds.get(asked.size), improve=asked.improve))
