"""What transfers have left on disk, and how to be rid of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lib_transfer.errors import TransferError
from lib_transfer.webui.host import files
from lib_transfer.webui.shell import preview
from lib_transfer.webui.shell.gradio_compat import control, on
from lib_transfer.webui.transfer.events import Desk, told
from lib_transfer.webui.transfer.html import note


@dataclass(frozen=True)
class Housekeeping:
    """The transferred copies and the cache of the program that ``desk`` is for."""

    desk: Desk

    def copies(self) -> list[Path]:
        """Every LoRA in the LoRA folders that Transfer LoRA made, by its own metadata."""
        found = files.adapters(self.desk.host.adapter_folders()).values()
        return [path for path in found if (facts := self.desk.index.adapter(path)) and facts.parent is not None]

    @told
    def account(self) -> str:
        """What there is and what it takes."""
        from lib_transfer.webui.transfer.work import runtime  # noqa: PLC0415 - torch is imported when it is used

        copies = self.copies()
        size = sum(_size(part) for path in copies for part in _with_side_files(path))
        contents = runtime(self.desk.host).cache.contents()
        names = "".join(f"<li>{escape(path.name)}</li>" for path in copies[:50])
        listed = f"<details><summary>Which ones</summary><ul>{names}</ul></details>" if copies else ""
        return (
            f"<p><b>{len(copies)} transferred copies take {_megabytes(size)}</b> with their previews and notes.</p>{listed}"
            f"<p>The cache takes {_megabytes(contents.total_bytes)} of at most {_megabytes(contents.limit)}"
            f" in <code>{escape(str(contents.folder))}</code>.</p>"
        )

    @told
    def remove_copies(self, sure: bool) -> str:
        """Remove every transferred copy with its previews and notes, if the person is sure."""
        if not sure:
            return note("Nothing was removed: tick the box first.") + self.account()
        problems = [_remove(path) for path in self.copies()]
        self.desk.host.adapters_changed()
        removed = note(f"{problems.count('')} transferred copies were removed.")
        return removed + "".join(note(problem) for problem in problems if problem) + self.account()

    @told
    def clear_cache(self) -> str:
        """Remove every decomposition."""
        from lib_transfer.webui.transfer.work import runtime  # noqa: PLC0415

        return note(f"{_megabytes(runtime(self.desk.host).cache.clear())} were freed.") + self.account()

    def build(self) -> None:
        """The controls, in whatever page is being built."""
        told_here = control(gr.HTML, "housekeeping", value="")
        with gr.Row():
            look = control(gr.Button, "account", value="Show what Transfer LoRA takes on disk")
            clear = control(gr.Button, "clear_cache", value="Empty the cache")
        sure = control(
            gr.Checkbox,
            "sure",
            label="Really remove transferred copies",
            info="the originals stay; copies can be made again",
            value=False,
        )
        remove = control(gr.Button, "remove_copies", value="Remove transferred copies", variant="stop")
        on(look.click, self.account, [], [told_here])
        on(clear.click, self.clear_cache, [], [told_here])
        on(remove.click, self.remove_copies, [sure], [told_here])


def name_preview(template: Any) -> None:
    """A line below the control ``template`` that shows the name it gives, as it is typed."""
    line = control(gr.HTML, "name_preview", value=preview.of_template(template.value))
    on(template.change, preview.of_template, [template], [line])


def _with_side_files(path: Path) -> list[Path]:
    from lib_transfer.formats.sidecars import plan_sidecars  # noqa: PLC0415

    return [path, *(side.source for side in plan_sidecars(path, path, card_version=None, note=""))]


def _remove(path: Path) -> str:
    """Remove a copy, if it is still one of ours, and what lies beside it under its name; the problem, if there is one."""
    from lib_transfer.formats.metadata import PREFIX  # noqa: PLC0415
    from lib_transfer.formats.safetensors_file import read_header  # noqa: PLC0415

    try:
        if f"{PREFIX}request" not in read_header(path).metadata:
            return f"{path.name} was not removed: it is no copy of ours any more."
        for part in reversed(_with_side_files(path)):
            part.unlink()
    except (OSError, TransferError) as error:
        return f"{path.name} was not removed: {error}."
    return ""


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _megabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
