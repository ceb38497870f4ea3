"""The lists of the Transfer view: the LoRAs, the checkpoints that can be the target, and those that can be a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lib_transfer.library.index import FileIndex
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.transfer.form import ACTIVE, AUTOMATIC, chosen_names


class Lists:
    """Updates of the lists.

    Args:
        host: the program.
        index: what the headers of files say.
    """

    def __init__(self, host: Host, index: FileIndex) -> None:
        self._host, self._index = host, index

    def all(self, values: FormValues) -> dict[str, Any]:
        """Every list, read anew; what is chosen stays if it is still there."""
        self._host.rescan_checkpoints()
        names = self._names()
        checkpoints = self._host.checkpoints()
        kept = [self._line(name, names[name]) for name in chosen_names(values["adapters"], names)]
        self._index.scan(names.values(), [checkpoint.path for checkpoint in checkpoints.values()])
        return {
            "adapters": gr.update(choices=[self._line(name, path) for name, path in names.items()], value=kept),
            "target": _list([ACTIVE, *checkpoints], values["target"]),
            "source": _list([AUTOMATIC, *checkpoints], values["source"]),
        }

    def sources(self, values: FormValues) -> dict[str, Any]:
        """Sources of the architectures of the chosen LoRAs; every checkpoint where these are not known."""
        names = self._names()
        facts = [self._index.adapter(names[name]) for name in chosen_names(values["adapters"], names)]
        wanted = {a for f in facts if f for a in f.architectures}
        fitting = []
        for name, checkpoint in self._host.checkpoints().items():
            known = self._index.checkpoint(checkpoint.path, known_only=not wanted)
            if not wanted or known is None or known.architecture in wanted or name == values["source"]:
                fitting.append(name)
        return {"source": gr.update(choices=[AUTOMATIC, *fitting])}

    def from_card(self, values: FormValues) -> dict[str, Any]:
        """The list with the LoRA of a card of the WebUI chosen."""
        names = self._names()
        name = files.by_card(values["card"], names)
        lines = [self._line(n, path) for n, path in names.items()]
        chosen = [self._line(name, names[name])] if name else values["adapters"]
        return {"adapters": gr.update(choices=lines, value=chosen)}

    def _names(self) -> dict[str, Path]:
        return files.adapters(self._host.adapter_folders())

    def _line(self, name: str, path: Path) -> str:
        facts = self._index.adapter(path, known_only=True)
        return files.entry(name, facts.short if facts else "")


def _list(choices: list[str], chosen: object) -> Any:
    """An update with these choices. What is chosen stays as it is, maybe something else by now, unless it is gone."""
    return gr.update(choices=choices) if chosen in choices else gr.update(choices=choices, value=choices[0])
