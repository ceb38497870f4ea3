"""What the tab says of the chosen LoRAs and the target, before a job is started."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_transfer.errors import TransferError
from lib_transfer.formats.naming import fill_template
from lib_transfer.library.checkpoints import Checkpoint, find
from lib_transfer.library.decide import Convert, Decision, TransferSettings
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.methods import Value
from lib_transfer.progress import SILENT
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded, note
from lib_transfer.webui.transfer import html
from lib_transfer.webui.transfer.form import ACTIVE, chosen_names, method_of, settings_of, source_of, target_of
from lib_transfer.webui.transfer.outlook import Prospect, outlook, takes
from lib_transfer.webui.transfer.preview import preview
from lib_transfer.webui.transfer.work import library_of, runtime

HASH8 = "········"
"""Stands for the hash in a name, which is known only when the files have been read."""

GUESSING = (
    "When the source is a guess, the similarities and the rotation start from the guess: the further it is from the "
    "checkpoint that the LoRA was trained on, the less the result is worth."
)


class Choice:
    """The texts about a choice.

    Args:
        host: the program.
        index: what the headers of files say.
        run_seconds: how long a run of a model takes, by the side of the pictures.
    """

    def __init__(self, host: Host, index: FileIndex, run_seconds: Mapping[int, float]) -> None:
        self._host, self._index, self._run_seconds = host, index, run_seconds

    def target(self, values: FormValues) -> dict[str, Any]:
        """The line of the target: what it is, or what is wrong with it."""
        return {"target_line": html.numbered(values["question"], guarded(self._target)(values["target"]))}

    def about(self, values: FormValues) -> dict[str, Any]:
        """What is known of the chosen LoRAs, the name that the first one's output would get, and what the job takes."""
        names = files.adapters(self._host.adapter_folders())
        chosen = {name: names[name] for name in chosen_names(values["adapters"], names)}
        try:
            target = target_of(values["target"], self._host)
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
        facts = (self._index.adapter(path) for path in chosen.values())
        return gr.update(visible=any(it is not None and bool(it.obstacles) for it in facts))

    def _settings(self, values: FormValues) -> TransferSettings:
        """What the job's settings have to do with the outlook: those of the method are looked at where costs are told."""
        picked = source_of(values["source"], self._host)
        return TransferSettings(method_of(values["method"]).id, {}, source=picked, across_families=True)

    def _library(self) -> Library:
        """What the program's person has, without outputs and text encoders: these have no say in what can be transferred."""
        return dataclasses.replace(library_of(self._host, self._index, SILENT, None), beside=())

    def _target(self, name: object) -> Markup:
        checkpoint = target_of(name, self._host)
        facts = self._index.checkpoint(checkpoint.path)
        if facts is None or facts.problem:
            return html.target(checkpoint.name, "", (facts.problem if facts else "The file is gone.", ""))
        active = self._host.active()
        gone = None
        if (name == ACTIVE or not name) and active.fallback:
            gone = (
                f"The chosen checkpoint {active.wanted} is gone, so the WebUI uses {checkpoint.name} instead.",
                "Choose a checkpoint in the WebUI, or pick the target yourself.",
            )
        return html.target(checkpoint.name, facts.architecture, gone)

    def _output(self, name: str, values: FormValues, source: Checkpoint | None) -> Markup:
        stem = fill_template(
            str(self._host.setting("template")),
            lora=name.rpartition("/")[2],
            source=source.path.stem if source else "",
            target=target_of(values["target"], self._host).path.stem,
            method=method_of(values["method"]).id,
            rank=str(self._host.setting("rank")),
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
        settings = dataclasses.replace(settings, values=given)
        run_seconds = self._run_seconds.get(int(given.get("size") or 0))
        return note(f"{of}{takes(priced, target, settings, runtime(self._host), run_seconds)}")

    def _unfinished(self, values: FormValues, chosen: Mapping[str, Path]) -> Markup:
        """The chosen LoRAs by themselves, where there is no target for them."""
        facts = {name: self._index.adapter(path) for name, path in list(chosen.items())[: html.SHOWN]}
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
        architecture = self.architecture(values["target"])
        installed = list(self._host.checkpoints().values())
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
        return preview(adapter) if self._host.setting("previews") else ""

    def architecture(self, target: object) -> str:
        """The title of the architecture of a target; "" where it is not known.

        Raises:
            RequestError: there is no such target.
        """
        facts = self._index.checkpoint(target_of(target, self._host).path)
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
        known = self._index.checkpoint(checkpoint.path)
        return known is not None and known.architecture in titles


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
