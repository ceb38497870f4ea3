"""What happens at each event of the Transfer view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import RequestError, TransferError
from lib_transfer.formats.naming import fill_template
from lib_transfer.library.checkpoints import Checkpoint, find
from lib_transfer.library.index import AdapterFacts
from lib_transfer.webui.host import files
from lib_transfer.webui.shell import controls
from lib_transfer.webui.shell.events import Start, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import error, guarded, note
from lib_transfer.webui.shell.jobs import Job, Kind
from lib_transfer.webui.transfer import html
from lib_transfer.webui.transfer.form import ACTIVE, AUTOMATIC, chosen_names, method_of, order, target_of
from lib_transfer.webui.transfer.work import Work, runtime

HASH8 = "········"
"""Stands for the hash in a name, which is known only when the files have been read."""

GUESSING = (
    "When the source is a guess, the similarities and the rotation start from the guess: the further it is from the "
    "checkpoint that the LoRA was trained on, the less the result is worth."
)


def emptied() -> dict[str, Any]:
    """The results of the last job taken away."""
    return {"overview": "", "picker": gr.update(choices=[], value=None, visible=False), "details": ""}


class TransferEvents(ViewEvents):
    """The events of the view."""

    # Lists.

    def opened(self, values: FormValues) -> dict[str, Any]:
        """The lists and the texts about the choice, when the tab is first looked at or refreshed."""
        self.host.rescan_checkpoints()
        names = self._names()
        checkpoints = self.host.checkpoints()
        target, source = values["target"], values["source"]
        kept = [self._line(name, names[name]) for name in chosen_names(values["adapters"], names)]
        lists = {
            "adapters": gr.update(choices=[self._line(name, path) for name, path in names.items()], value=kept),
            "target": gr.update(choices=[ACTIVE, *checkpoints], value=target if target in checkpoints else ACTIVE),
            "source": gr.update(
                choices=[AUTOMATIC, *checkpoints], value=source if source in checkpoints else AUTOMATIC
            ),
        }
        self.tab.index.scan(names.values(), [checkpoint.path for checkpoint in checkpoints.values()])
        return {**lists, **self.looked(values)}

    def from_card(self, values: FormValues) -> dict[str, Any]:
        """The list with the LoRA of a card of the WebUI chosen."""
        names = self._names()
        name = files.by_card(values["card"], names)
        lines = [self._line(n, path) for n, path in names.items()]
        chosen = [self._line(name, names[name])] if name else values["adapters"]
        return {"adapters": gr.update(choices=lines, value=chosen)}

    def _names(self) -> dict[str, Path]:
        return files.adapters(self.host.adapter_folders())

    def _line(self, name: str, path: Path) -> str:
        facts = self.tab.index.adapter(path, known_only=True)
        return files.entry(name, facts.short if facts else "")

    # Texts about the choice.

    def looked(self, values: FormValues) -> dict[str, Any]:
        """What is known of the target and the LoRAs, when the page is looked at or the active checkpoint changed."""
        return {**self.target(values), **self.about(values)}

    def chosen(self, values: FormValues) -> dict[str, Any]:
        """What is known of the chosen LoRAs, and the sources that can be offered for them."""
        return {**self.about(values), "source": self._sources(values)}

    def about(self, values: FormValues) -> dict[str, Any]:
        """What is known of the chosen LoRAs, and the name that the first one's output would get."""
        names = self._names()
        chosen = {name: names[name] for name in chosen_names(values["adapters"], names)}
        source = values["source"]
        picked = self.host.checkpoints().get(source) if isinstance(source, str) else None
        table = guarded(self._table)(chosen, values, picked)
        output = guarded(self._output)(next(iter(chosen)), values, picked) if chosen else ""
        return {"chosen": table, "output": output}

    def target(self, values: FormValues) -> dict[str, Any]:
        """What is known of the target."""
        return {"target_line": guarded(self._target)(values["target"])}

    def method(self, values: FormValues) -> dict[str, Any]:
        """The controls of the method shown, and those of the others hidden."""
        try:
            return controls.visible_for(method_of(values["method"]))
        except TransferError:
            return {}

    def _sources(self, values: FormValues) -> Any:
        """Sources of the architectures of the chosen LoRAs; every checkpoint where these are not known."""
        names = self._names()
        facts = [self.tab.index.adapter(names[name]) for name in chosen_names(values["adapters"], names)]
        wanted = {a for f in facts if f for a in f.architectures}
        fitting = []
        for name, checkpoint in self.host.checkpoints().items():
            known = self.tab.index.checkpoint(checkpoint.path, known_only=not wanted)
            if not wanted or known is None or known.architecture in wanted or name == values["source"]:
                fitting.append(name)
        return gr.update(choices=[AUTOMATIC, *fitting])

    def _target(self, name: object) -> Markup:
        checkpoint = target_of(name, self.host)
        facts = self.tab.index.checkpoint(checkpoint.path)
        if facts is None or facts.problem:
            return html.target(checkpoint.name, "", (facts.problem if facts else "The file is gone.", ""))
        active = self.host.active()
        gone = None
        if (name == ACTIVE or not name) and active.fallback:
            gone = (
                f"The chosen checkpoint {active.wanted} is gone, so the WebUI uses {checkpoint.name} instead.",
                "Choose a checkpoint in the WebUI, or pick the target yourself.",
            )
        return html.target(checkpoint.name, facts.architecture, gone)

    def _output(self, name: str, values: FormValues, source: Checkpoint | None) -> Markup:
        stem = fill_template(
            str(self.host.setting("template")),
            lora=name.rpartition("/")[2],
            source=source.path.stem if source else "",
            target=target_of(values["target"], self.host).path.stem,
            method=method_of(values["method"]).id,
            rank=str(self.host.setting("rank")),
            hash8=HASH8,
        )
        return html.output_name("Writes", stem)

    def _table(self, chosen: Mapping[str, Path], values: FormValues, picked: Checkpoint | None) -> Markup | str:
        needed = method_of(values["method"]).needs_source
        installed = list(self.host.checkpoints().values())
        target = self._architecture(values["target"])
        rows: list[html.Chosen] = []
        warnings: list[Markup] = []
        for name, path in list(chosen.items())[: html.SHOWN]:
            facts = self.tab.index.adapter(path) or AdapterFacts(problem="The file is gone.")
            if facts.problem:
                rows.append(html.Chosen(name, problem=facts.problem))
                continue
            source, warning = "not needed by this method", None
            if needed:
                source, warning = self._source(facts, installed, picked)
            rows.append(html.Chosen(name, f"{facts.base}{_fits(facts, target)}", facts.kind, source))
            warnings += [warning] if warning is not None else []
        return html.chosen(rows, len(chosen) - html.SHOWN, warnings)

    def _architecture(self, target: object) -> str:
        try:
            facts = self.tab.index.checkpoint(target_of(target, self.host).path)
        except RequestError:
            return ""
        return facts.architecture if facts else ""

    def _source(
        self, facts: AdapterFacts, installed: Sequence[Checkpoint], picked: Checkpoint | None
    ) -> tuple[str, Markup | None]:
        """The source of a LoRA in words, and a warning where it is a guess or missing."""
        match = find(facts, installed)
        if picked is not None and (match.checkpoint is None or match.checkpoint.path != picked.path):
            asked = match.asks_for or "no checkpoint"
            warning = note(f"{picked.name} is a guess: the metadata asks for {asked}. {GUESSING}")
            return f"{picked.name}, picked by you", warning
        if match.checkpoint is not None:
            return f"{match.checkpoint.name}, found by {match.by}", None
        relatives = [checkpoint.name for checkpoint in installed if self._related(checkpoint, facts)]
        offer = "None of the same architecture is installed."
        if relatives:
            offer = f"Installed ones of the same architecture: {', '.join(relatives[:12])}."
        hint = f"Pick one under Source checkpoint. {offer} {GUESSING}"
        if match.asks_for:
            found = "The source checkpoint was not found. It asks for {}, which is not installed."
            return f"not found; asks for {match.asks_for}", error(found.format(match.asks_for), hint)
        found = "The source checkpoint was not found. Its metadata does not say what it was trained on."
        return "not found; the metadata does not say", error(found, hint)

    def _related(self, checkpoint: Checkpoint, facts: AdapterFacts) -> bool:
        known = self.tab.index.checkpoint(checkpoint.path)
        return known is not None and known.architecture in facts.architectures

    # Jobs.

    def start(self, kind: Kind, values: FormValues) -> dict[str, Any]:
        """Start a job on the chosen LoRAs."""

        def prepare() -> Start:
            wanted = order(values, self.host)
            work = Work(wanted, self.host, self.tab.index, self.tab.once)
            return Start(Job(kind, tuple(wanted.adapters)), work, in_queue=on_gpu(runtime(self.host)))

        updates = self.begin(values, prepare)
        return {**updates, **emptied()} if self.job_name in updates else updates

    def results(self, values: FormValues) -> dict[str, Any]:
        """The overview, the LoRAs whose details can be shown, and the details of the first."""
        job = self.job(values)
        outcomes = list(job.outcomes) if job else []
        names = [outcome.name for outcome in outcomes]
        overview = guarded(html.overview)(outcomes)
        if not names:
            return {**emptied(), "overview": overview}
        # Details are large: those on the page stay as they are while further LoRAs come in.
        if values["picker"] in names:
            return {"overview": overview, "picker": gr.update(choices=names, visible=len(names) > 1)}
        picker = gr.update(choices=names, value=names[0], visible=len(names) > 1)
        return {"overview": overview, "picker": picker, **self.details({**values, "picker": names[0]})}

    def details(self, values: FormValues) -> dict[str, Any]:
        """Everything about one LoRA of a job."""
        job = self.job(values)
        outcome = next((o for o in (job.outcomes if job else ()) if o.name == values["picker"]), None)
        return {"details": guarded(html.details)(outcome)}


def on_gpu(run: Runtime) -> bool:
    """Whether a transfer computes on the GPU."""
    return run.torch_device.type == "cuda"


def _fits(facts: AdapterFacts, target: str) -> str:
    """Whether a LoRA fits a target of the architecture ``target``, in words."""
    if not target or not facts.architectures:
        return ""
    return ", fits the target" if target in facts.architectures else f", does not fit: the target is {target}"
