"""What happens at each event of the Compare panel."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from markupsafe import Markup

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.library.outputs import Outputs
from lib_transfer.webui.compare.form import Field, fields, scene, scene_controls
from lib_transfer.webui.compare.html import gallery
from lib_transfer.webui.compare.kept import KeptComparisons
from lib_transfer.webui.compare.subject import Subject, shown_subject, subject_of
from lib_transfer.webui.compare.work import CompareJob, Comparison
from lib_transfer.webui.host import files
from lib_transfer.webui.shell.events import Start, TabEvents, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded
from lib_transfer.webui.transfer.answer import Ways, answer
from lib_transfer.webui.transfer.events import emptied
from lib_transfer.webui.transfer.form import chosen_names, order, target_of
from lib_transfer.webui.transfer.known import known
from lib_transfer.webui.transfer.work import Work


class CompareEvents(ViewEvents):
    """The events of the panel."""

    def __init__(self, tab: TabEvents) -> None:
        super().__init__(tab)
        self._kept = KeptComparisons(self.host)

    def start(self, values: FormValues) -> dict[str, Any]:
        """Start a comparison."""

        def prepare() -> Start:
            pictures = self.host.pictures
            if pictures is None:
                raise RequestError("No pictures can be made here.", hint="Open the tab in a WebUI.")
            look, wanted = scene(values, pictures), order(values, self.host)
            work = Work(wanted, self.host, self.tab.index, self.tab.once)

            def subjects(job: CompareJob) -> list[Subject]:
                work(job)
                paths = wanted.adapters
                return [subject_of(o, paths[o.name], wanted.target, self.host, self.tab.index) for o in job.outcomes]

            comparison = Comparison(look, self.host, pictures, subjects, self._kept)
            # The program makes the pictures, so the job needs its queue on every device.
            return Start(CompareJob(tuple(wanted.adapters)), comparison, in_queue=True)

        updates = self.begin(values, prepare)
        if self.job_name not in updates:
            return updates
        return {**updates, **emptied(), "pictures": gallery((), None) if updates[self.job_name] else ""}

    def start_now(self, values: FormValues) -> dict[str, Any]:
        """Start a comparison of a LoRA that is shown, with the settings of txt2img that our JavaScript has read.

        What txt2img does not have is taken from the panel.
        """

        def prepare() -> Start:
            pictures = self.host.pictures
            if pictures is None:
                raise RequestError("No pictures can be made here.", hint="Open the tab in a WebUI.")
            given = _taken(values)
            there = {name: given[name] for name in scene_controls() if given.get(name) not in (None, "")}
            look = scene({**values, **there}, pictures)
            before = self.job(values)
            outcomes = list(before.outcomes) if before is not None else []
            asked = next((outcome for outcome in outcomes if outcome.name == values["compared"]), None)
            use = answer(asked, known(asked, Outputs(self.tab.index)), Ways()).use if asked is not None else ""
            subject = shown_subject(asked, use, self.host, self.tab.index)
            comparison = Comparison(look, self.host, pictures, lambda _: [subject], self._kept)
            return Start(CompareJob(before=outcomes), comparison, in_queue=True)

        updates = self.begin(values, prepare)
        # Where no job was started, the results of the last one stay.
        if not updates.get(self.job_name):
            return {self.status_name: updates[self.status_name]}
        return {**updates, "pictures": gallery((), None)}

    def pictures(self, values: FormValues) -> dict[str, Any]:
        """The pictures that the job has made so far, and those that are kept of the chosen LoRA."""
        job = self.job(values)
        made = guarded(gallery)(list(job.pictures), job.scene) if isinstance(job, CompareJob) else ""
        return {"pictures": made, **self.chosen(values)}

    def chosen(self, values: FormValues) -> dict[str, Any]:
        """The pictures that are kept of the chosen LoRA on the target."""
        return {"kept_pictures": guarded(self._gallery)(values)}

    def _gallery(self, values: FormValues) -> Markup | str:
        names = files.adapters(self.host.adapter_folders())
        chosen = {name: names[name] for name in chosen_names(values["adapters"], names)}
        try:
            found = self._kept.first(chosen, target_of(values["target"], self.host)) if chosen else None
        except RequestError:
            # What is wrong with the target is said where it is chosen.
            found = None
        return "" if found is None else gallery(found.pictures, found.scene)

    def take(self, values: FormValues) -> dict[str, Any]:
        """The settings of txt2img that our JavaScript has read; values that are not valid change nothing.

        Raises:
            RequestError: it is no JSON object.
        """
        given = _taken(values)
        updates = {name: given[name] for name in ("prompt", "negative") if isinstance(given.get(name), str)}
        if self.host.pictures is not None and given.get("sampler") in self.host.pictures.samplers():
            updates["sampler"] = given["sampler"]
        numbers = {field.name: _number(field, given.get(field.name)) for field in fields()}
        return {**updates, **{name: value for name, value in numbers.items() if value is not None}}


def _taken(values: FormValues) -> dict[str, Any]:
    """What our JavaScript has read.

    Raises:
        RequestError: it is no JSON object.
    """
    given: Any = None
    # json goes one call deeper for every bracket.
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        given = json.loads(values["taken"])
    if not isinstance(given, dict):
        raise RequestError(
            "The settings of txt2img could not be read, so nothing was changed.",
            hint="Reload the page and try again.",
        )
    return given


def _number(field: Field, value: object) -> Any:
    """The value of a number; None where it is missing or not allowed."""
    if value is not None:
        with contextlib.suppress(RequestError):
            return methods.checked(field.parameter, value)
    return None
