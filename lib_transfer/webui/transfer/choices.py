"""What the tab says of the choices before anything runs: the target, the chosen LoRAs and where each came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lib_transfer.errors import RequestError
from lib_transfer.library.checkpoints import find
from lib_transfer.library.index import AdapterFacts, FileIndex
from lib_transfer.webui.host.host import Checkpoint, Host
from lib_transfer.webui.transfer.form import ACTIVE, target_of
from lib_transfer.webui.transfer.html import error, note

SHOWN = 20
"""Chosen LoRAs that are listed one by one."""

GUESSING = (
    "With a guess, similarities and the rotation describe the way from the guess: the further it is from the checkpoint "
    "the LoRA was really trained on, the less the result is worth."
)


@dataclass(frozen=True)
class Panels:
    """Texts about choices, from what the program lists and the files' headers say."""

    host: Host
    index: FileIndex

    def target(self, name: object) -> str:
        """The target: its name, what it is, and whether it is really the one the person chose."""
        try:
            checkpoint = target_of(name, self.host)
        except RequestError as problem:
            return error(problem.message, problem.hint)
        facts = self.index.checkpoint(checkpoint.path)
        parts = [f"<b>{escape(checkpoint.name)}</b>"]
        if facts is None or facts.problem:
            problem_text = facts.problem if facts else "The file is gone."
            return f'<div class="transfer-lora-line">{parts[0]}</div>{error(problem_text)}'
        parts.append(escape(facts.architecture))
        line = f'<div class="transfer-lora-line" data-target="{escape(checkpoint.name)}">{" · ".join(parts)}</div>'
        active = self.host.active()
        if (name == ACTIVE or not name) and active.fallback:
            return line + error(
                f"The chosen checkpoint {active.wanted} is gone, so the WebUI uses {checkpoint.name} instead.",
                "Choose a checkpoint in the WebUI, or pick the target yourself.",
            )
        return line

    def chosen(self, adapters: Mapping[str, Path], target: object, source: Checkpoint | None, needed: bool) -> str:
        """The chosen LoRAs: base, kind, the checkpoint each was trained on, and whether it fits the target.

        Args:
            adapters: paths by name.
            target: as the control says it.
            source: the one that was picked for all; None to find each one's own.
            needed: whether the method needs a source at all.
        """
        if not adapters:
            return ""
        installed = list(self.host.checkpoints().values())
        target_kind = self._target_kind(target)
        rows, warnings = [], []
        for name, path in list(adapters.items())[:SHOWN]:
            facts = self.index.adapter(path) or AdapterFacts(problem="The file is gone.")
            if facts.problem:
                rows.append(
                    f"<tr><th>{escape(name)}</th><td colspan=3>{error('This file cannot be used.', facts.problem)}</td></tr>"
                )
                continue
            fits = _fits(facts, target_kind)
            cells = (f"{facts.base}{fits}", facts.kind, self._source(facts, installed, source, needed, warnings))
            rows.append(f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        more = len(adapters) - SHOWN
        head = "<tr><th>LoRA</th><th>Base</th><th>Kind</th><th>Source checkpoint</th></tr>"
        table = (
            '<div class="transfer-lora-scroll"><table id="transfer_lora_chosen_table">'
            f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
        return table + (note(f"and {more} more") if more > 0 else "") + "".join(dict.fromkeys(warnings))

    def _target_kind(self, target: object) -> str:
        try:
            facts = self.index.checkpoint(target_of(target, self.host).path)
        except RequestError:
            return ""
        return facts.architecture if facts else ""

    def _source(
        self,
        facts: AdapterFacts,
        installed: Sequence[Checkpoint],
        picked: Checkpoint | None,
        needed: bool,
        warnings: list[str],
    ) -> str:
        if not needed:
            return "not needed by this method"
        match = find(facts, installed)
        if picked is not None:
            if match.checkpoint is not None and match.checkpoint.path == picked.path:
                return f"{picked.name}, found by {match.by}"
            asked = match.asks_for or "no checkpoint"
            warnings.append(note(f"{picked.name} is a guess: the metadata asks for {asked}. {GUESSING}"))
            return f"{picked.name}, picked by you"
        if match.checkpoint is not None:
            return f"{match.checkpoint.name}, found by {match.by}"
        relatives = [c.name for c in installed if self._same_kind(c, facts)]
        offer = (
            f"Installed ones of the same architecture: {', '.join(relatives[:12])}."
            if relatives
            else ("None of the same architecture is installed.")
        )
        asked = (
            f"It asks for {match.asks_for}, which is not installed."
            if match.asks_for
            else ("Its metadata does not say what it was trained on.")
        )
        warnings.append(
            error(
                f"The source checkpoint was not found. {asked}", f"Pick one under Source checkpoint. {offer} {GUESSING}"
            )
        )
        return f"not found; asks for {match.asks_for}" if match.asks_for else "not found; the metadata does not say"

    def _same_kind(self, checkpoint: Checkpoint, facts: AdapterFacts) -> bool:
        known = self.index.checkpoint(checkpoint.path)
        return known is not None and known.architecture in facts.architectures


def _fits(facts: AdapterFacts, target_kind: str) -> str:
    if not target_kind or not facts.architectures:
        return ""
    return ", fits the target" if target_kind in facts.architectures else f", does not fit: the target is {target_kind}"
