"""What happens at each event of the Transfer view."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import TransferError
from lib_transfer.formats.naming import fill_template
from lib_transfer.library.checkpoints import Checkpoint, find
from lib_transfer.library.decide import Convert, Decision, TransferSettings
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.methods import Value
from lib_transfer.progress import SILENT
from lib_transfer.webui.host import files
from lib_transfer.webui.shell import controls
from lib_transfer.webui.shell.events import Start, TabEvents, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded, note
from lib_transfer.webui.shell.jobs import Job, Kind
from lib_transfer.webui.transfer import html
from lib_transfer.webui.transfer.form import (
    ACTIVE,
    AUTOMATIC,
    chosen_names,
    method_of,
    order,
    remembered,
    settings_of,
    source_of,
    target_of,
)
from lib_transfer.webui.transfer.known import answers
from lib_transfer.webui.transfer.loading import Loading, in_need
from lib_transfer.webui.transfer.outlook import Prospect, outlook, takes
from lib_transfer.webui.transfer.preview import preview
from lib_transfer.webui.transfer.work import Work, library_of, runtime

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

    def __init__(self, tab: TabEvents) -> None:
        super().__init__(tab)
        self._outputs = Outputs(tab.index)

    # Lists.

    def opened(self, values: FormValues) -> dict[str, Any]:
        """The lists and the texts about the choice, when the tab is first looked at or refreshed."""
        self.host.rescan_checkpoints()
        names = self._names()
        checkpoints = self.host.checkpoints()
        kept = [self._line(name, names[name]) for name in chosen_names(values["adapters"], names)]
        lists = {
            "adapters": gr.update(choices=[self._line(name, path) for name, path in names.items()], value=kept),
            "target": _list([ACTIVE, *checkpoints], values["target"]),
            "source": _list([AUTOMATIC, *checkpoints], values["source"]),
        }
        self.tab.index.scan(names.values(), [checkpoint.path for checkpoint in checkpoints.values()])
        return {**lists, **self.looked(values)}

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
        """What is known of the target and the LoRAs, and what a transfer would come to.

        The page numbers its questions, and asks again until it shows the answer to the last one: answers may arrive in any
        order, and one to an earlier question may tell of another target.
        """
        return {**self.target(values), **self.about(values)}

    def about(self, values: FormValues) -> dict[str, Any]:
        """What is known of the chosen LoRAs, the name that the first one's output would get, and what the job takes."""
        names = self._names()
        chosen = {name: names[name] for name in chosen_names(values["adapters"], names)}
        try:
            target = target_of(values["target"], self.host)
            settings = self._settings(values)
            found = outlook(chosen, target, settings, self._library())
        except TransferError:
            # The target's own line says what is the matter with it, and so does whoever starts the job.
            table = guarded(self._unfinished)(values, chosen)
            return {
                "chosen": table,
                "loadable": self._loadable(chosen),
                "output": "",
                "cost": "",
                "transfer": gr.update(interactive=True),
            }
        first = next((prospect.name for prospect in found if prospect.item is not None), "")
        return {
            "chosen": guarded(self._table)(found, chosen, values, settings),
            "loadable": self._loadable(chosen),
            "output": guarded(self._output)(first, values, settings.source) if first else "",
            "cost": guarded(self._cost)(found, values, target, settings),
            "transfer": gr.update(interactive=bool(first) or not found),
        }

    def _loadable(self, chosen: Mapping[str, Path]) -> Any:
        """The button that makes LoRAs load, shown where one of these may not as it is."""
        facts = (self.tab.index.adapter(path) for path in chosen.values())
        return gr.update(visible=any(it is not None and bool(it.obstacles) for it in facts))

    def target(self, values: FormValues) -> dict[str, Any]:
        """What is known of the target."""
        return {"target_line": html.numbered(values["question"], guarded(self._target)(values["target"]))}

    def method(self, values: FormValues) -> dict[str, Any]:
        """The controls of the method shown, and those of the others hidden."""
        try:
            return controls.visible_for(method_of(values["method"]))
        except TransferError:
            return {}

    def sources(self, values: FormValues) -> dict[str, Any]:
        """Sources of the architectures of the chosen LoRAs; every checkpoint where these are not known."""
        names = self._names()
        facts = [self.tab.index.adapter(names[name]) for name in chosen_names(values["adapters"], names)]
        wanted = {a for f in facts if f for a in f.architectures}
        fitting = []
        for name, checkpoint in self.host.checkpoints().items():
            known = self.tab.index.checkpoint(checkpoint.path, known_only=not wanted)
            if not wanted or known is None or known.architecture in wanted or name == values["source"]:
                fitting.append(name)
        return {"source": gr.update(choices=[AUTOMATIC, *fitting])}

    def _settings(self, values: FormValues) -> TransferSettings:
        """What the job's settings have to do with the outlook: those of the method are looked at where costs are told."""
        picked = source_of(values["source"], self.host)
        return TransferSettings(method_of(values["method"]).id, {}, source=picked, across_families=True)

    def _library(self) -> Library:
        """What the program's person has, without outputs and text encoders: these have no say in what can be transferred."""
        return dataclasses.replace(library_of(self.host, self.tab.index, SILENT, None), beside=())

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

    def _cost(
        self, found: Sequence[Prospect], values: FormValues, target: Checkpoint, settings: TransferSettings
    ) -> Markup | str:
        """What the job takes; where there is nothing to do, that."""
        items = sum(prospect.item is not None for prospect in found)
        if not items:
            return note(html.nothing(found)) if found else ""
        given = settings_of(settings.how, values)
        of = "" if items == len(found) else f"{items} of the {len(found)} LoRAs: "
        priced = [dataclasses.replace(p, decision=_with(p.decision, given)) for p in found]
        return note(f"{of}{takes(priced, target, dataclasses.replace(settings, values=given), runtime(self.host))}")

    def _unfinished(self, values: FormValues, chosen: Mapping[str, Path]) -> Markup:
        """The chosen LoRAs by themselves, where there is no target for them."""
        facts = {name: self.tab.index.adapter(path) for name, path in list(chosen.items())[: html.SHOWN]}
        rows = [
            html.Chosen(name, f.base, f.kind, "", preview=self._preview(chosen[name]))
            for name, f in facts.items()
            if f and not f.problem
        ]
        return html.numbered(values["question"], html.chosen(rows, len(chosen) - len(rows), None, ()))

    def _table(
        self,
        found: Sequence[Prospect],
        chosen: Mapping[str, Path],
        values: FormValues,
        settings: TransferSettings,
    ) -> Markup:
        architecture = self._architecture(values["target"])
        installed = list(self.host.checkpoints().values())
        rows = [
            html.Chosen(
                p.name,
                *_kind(p, architecture),
                p.short or _source(p, settings, installed),
                bool(p.short),
                self._preview(chosen[p.name]),
            )
            for p in found[: html.SHOWN]
        ]
        trouble = html.trouble(found, self._offer(found, installed)) if any(p.reason for p in found) else None
        notes = [f"{p.name}: {p.facts.doubt}" for p in found[: html.SHOWN] if p.facts.doubt and not p.reason]
        notes += [
            f"{p.name} may not load as it is. {' '.join(p.facts.obstacles)}"
            for p in found[: html.SHOWN]
            if p.facts.obstacles
        ]
        notes += _guesses(found[: html.SHOWN], settings, installed)
        return html.numbered(values["question"], html.chosen(rows, len(found) - html.SHOWN, trouble, notes))

    def _preview(self, adapter: Path) -> str:
        return preview(adapter) if self.host.setting("previews") else ""

    def _architecture(self, target: object) -> str:
        facts = self.tab.index.checkpoint(target_of(target, self.host).path)
        return facts.architecture if facts else ""

    def _offer(self, found: Sequence[Prospect], installed: Sequence[Checkpoint]) -> str:
        """What to do about sources that were not found; "" where none is missing."""
        missing = [prospect.facts for prospect in found if prospect.lacks_source]
        if not missing:
            return ""
        wanted = {title for facts in missing for title in facts.architectures}
        relatives = [checkpoint.name for checkpoint in installed if self._is_one_of(checkpoint, wanted)]
        offer = "None of the same architecture is installed."
        if relatives:
            offer = f"Installed ones of the same architecture: {', '.join(relatives[:12])}."
        return f"Where the source was not found, pick one under Source checkpoint. {offer} {GUESSING}"

    def _is_one_of(self, checkpoint: Checkpoint, titles: Collection[str]) -> bool:
        known = self.tab.index.checkpoint(checkpoint.path)
        return known is not None and known.architecture in titles

    # Jobs.

    def start(self, kind: Kind, values: FormValues) -> dict[str, Any]:
        """Start a job on the chosen LoRAs; the target's line tells which one it is for."""

        def prepare() -> Start:
            wanted = order(values, self.host)
            work = Work(wanted, self.host, self.tab.index, self.tab.once)
            return Start(Job(kind, tuple(wanted.adapters)), work, in_queue=on_gpu(runtime(self.host)))

        updates = {**self.begin(values, prepare), **self.target(values)}
        return {**updates, **emptied()} if self.job_name in updates else updates

    def make_load(self, values: FormValues) -> dict[str, Any]:
        """Start the job that makes those of the chosen LoRAs load that may not as they are."""

        def prepare() -> Start:
            found = in_need(values["adapters"], self.host, self.tab.index)
            target = ""
            with contextlib.suppress(TransferError):
                target = self._architecture(values["target"])
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


def _list(choices: list[str], chosen: object) -> Any:
    """An update with these choices. What is chosen stays as it is, maybe something else by now, unless it is gone."""
    return gr.update(choices=choices) if chosen in choices else gr.update(choices=choices, value=choices[0])


def _with(decision: Decision, values: Mapping[str, Value]) -> Decision:
    """A decision to convert, with the settings of the method; others as they are."""
    if not isinstance(decision, Convert):
        return decision
    return dataclasses.replace(decision, settings=dataclasses.replace(decision.settings, values=values))


def _kind(prospect: Prospect, target: str) -> tuple[str, str]:
    """Base and kind of a LoRA in words, and whether it fits a target of the architecture ``target``."""
    facts = prospect.facts
    if facts.problem:
        return "", ""
    if not target or not facts.architectures:
        return facts.base, facts.kind
    fits = "fits the target" if target in facts.architectures else f"does not fit: the target is {target}"
    return f"{facts.base}, {fits}", facts.kind


def _source(prospect: Prospect, settings: TransferSettings, installed: Sequence[Checkpoint]) -> str:
    """The source of a LoRA that can be transferred, in words."""
    if prospect.on_target:
        return "the target itself: nothing to transfer"
    if not settings.how.needs_source:
        return "not needed by this method"
    match = find(prospect.facts, installed)
    if settings.source is not None and (match.checkpoint is None or match.checkpoint.path != settings.source.path):
        return f"{settings.source.name}, picked by you"
    return f"{match.checkpoint.name}, found by {match.by}" if match.checkpoint is not None else ""


def _guesses(found: Iterable[Prospect], settings: TransferSettings, installed: Sequence[Checkpoint]) -> list[str]:
    """What speaks against a source that was picked, for each LoRA, and once what that means."""
    picked = settings.source
    if picked is None or not settings.how.needs_source:
        return []
    matches = {p.name: find(p.facts, installed) for p in found if p.item is not None}
    guessed = {n: m for n, m in matches.items() if m.checkpoint is None or m.checkpoint.path != picked.path}
    said = [
        f"{picked.name} is a guess: the metadata of {name} asks for {match.asks_for or 'no checkpoint'}."
        for name, match in guessed.items()
    ]
    return [*said, GUESSING] if said else []
