"""What transfers have left on disk, and how to remove it; and an example of the name template."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_transfer.errors import TransferError
from lib_transfer.formats.metadata import PREFIX
from lib_transfer.formats.naming import fill_template
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.formats.sidecars import plan_sidecars
from lib_transfer.webui.host import files
from lib_transfer.webui.shell.events import TabEvents
from lib_transfer.webui.shell.form import Form, FormValues
from lib_transfer.webui.shell.html import guarded, note, render
from lib_transfer.webui.transfer.html import output_name
from lib_transfer.webui.transfer.work import runtime

LISTED = 50
"""How many transferred LoRAs are listed by name."""

EXAMPLE = {"lora": "my-lora", "source": "old-base", "target": "new-base", "method": "rotation", "rank": "same"}


class Housekeeping:
    """The transferred LoRAs and the cache of the program that ``tab`` is for."""

    def __init__(self, tab: TabEvents) -> None:
        self._host, self._index = tab.host, tab.index

    def transferred(self) -> list[Path]:
        """Every LoRA in the LoRA folders that is an output of Transfer LoRA, by its own metadata."""
        found = files.adapters(self._host.adapter_folders()).values()
        return [path for path in found if (facts := self._index.adapter(path)) and facts.parent is not None]

    def account(self) -> Markup:
        """What there is, and how much space it takes."""
        made = self.transferred()
        size = sum(_size(part) for path in made for part in _with_side_files(path))
        cache = runtime(self._host).cache.contents()
        names = [path.name for path in made[:LISTED]]
        return render("housekeeping", count=len(made), size=size, names=names, cache=cache)

    def remove(self, sure: object) -> Markup:
        """Remove every transferred LoRA with its side files, if the person is sure."""
        if not sure:
            return note("Nothing was removed: tick the box first.") + self.account()
        problems = [_remove(path) for path in self.transferred()]
        self._host.adapters_changed()
        removed = problems.count("")
        said = f"{removed} transferred LoRA{' was' if removed == 1 else 's were'} removed."
        return note(said, *(problem for problem in problems if problem)) + self.account()

    def clear_cache(self) -> Markup:
        """Remove every cached decomposition."""
        return render("freed", size=runtime(self._host).cache.clear()) + self.account()

    def build(self) -> None:
        """Put the controls on the page that is being built."""
        form = Form()
        form.add(gr.HTML, "housekeeping", value="")
        with gr.Row():
            form.add(gr.Button, "account", value="Show what Transfer LoRA keeps on disk")
            form.add(gr.Button, "clear_cache", value="Empty the cache")
        form.add(
            gr.Checkbox,
            "sure",
            label="I am sure that I want to remove all transferred LoRAs",
            info="The originals stay. Transferred LoRAs can be made again.",
            value=False,
        )
        form.add(gr.Button, "remove_copies", value="Remove all transferred LoRAs", variant="stop")

        def account(_: FormValues) -> dict[str, Any]:
            return {"housekeeping": guarded(self.account)()}

        def clear_cache(_: FormValues) -> dict[str, Any]:
            return {"housekeeping": guarded(self.clear_cache)()}

        def remove_copies(values: FormValues) -> dict[str, Any]:
            return {"housekeeping": guarded(self.remove)(values["sure"])}

        form.on(form["account"].click, account, (), ("housekeeping",))
        form.on(form["clear_cache"].click, clear_cache, (), ("housekeeping",))
        form.on(form["remove_copies"].click, remove_copies, ("sure",), ("housekeeping",))


def name_preview(template: Any) -> None:
    """A line below the control ``template`` that shows the name it gives to an example, as it is typed."""
    form = Form()
    form.put("template", template)
    form.add(gr.HTML, "name_preview", value=_example(template.value))

    def of_template(values: FormValues) -> dict[str, Any]:
        return {"name_preview": _example(values["template"])}

    form.on(template.change, of_template, ("template",), ("name_preview",))


def _example(template: object) -> Markup:
    try:
        return output_name("Example", fill_template(str(template), **EXAMPLE, hash8="1a2b3c4d"))
    except TransferError as error:
        return note(str(error))


def _with_side_files(path: Path) -> list[Path]:
    return [path, *(side.source for side in plan_sidecars(path, path, card_version=None, note=""))]


def _remove(path: Path) -> str:
    """Remove a LoRA and its side files, if it is still one of ours; the problem, if there is one."""
    try:
        if f"{PREFIX}request" not in read_header(path).metadata:
            return f"{path.name} was not removed: Transfer LoRA did not make this file."
        for part in reversed(_with_side_files(path)):
            part.unlink()
    except (OSError, TransferError) as error:
        return f"{path.name} was not removed: {error}."
    return ""


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
