"""What transfers have left on disk, and how to remove it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lib_transfer.errors import TransferError
from lib_transfer.formats.metadata import PREFIX
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.formats.sidecars import plan_sidecars
from lib_transfer.webui.host import files
from lib_transfer.webui.shell.events import TabEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import guarded, note, render
from lib_transfer.webui.transfer.work import runtime

LISTED = 50
"""How many transferred LoRAs are listed by name."""


class Housekeeping:
    """The transferred LoRAs and the cache of the program that ``tab`` is for."""

    def __init__(self, tab: TabEvents) -> None:
        self._host, self._index = tab.host, tab.index

    def transferred(self) -> list[Path]:
        """Every LoRA in the LoRA folders that is an output of Transfer LoRA, by its own metadata."""
        found = files.adapters(self._host.adapter_folders()).values()
        return [path for path in found if (facts := self._index.adapter(path)) and facts.parent is not None]

    def account(self, _: FormValues) -> dict[str, Any]:
        """What there is, and how much space it takes."""
        return {"housekeeping": guarded(self._account)()}

    def remove(self, values: FormValues) -> dict[str, Any]:
        """Remove every transferred LoRA with its side files, if the person is sure."""
        return {"housekeeping": guarded(self._removed if values["sure"] else self._unsure)()}

    def clear_cache(self, _: FormValues) -> dict[str, Any]:
        """Remove every cached decomposition."""
        return {"housekeeping": guarded(self._freed)()}

    def _account(self) -> Markup:
        made = self.transferred()
        size = sum(_size(part) for path in made for part in _with_side_files(path))
        cache = runtime(self._host).cache.contents()
        names = [path.name for path in made[:LISTED]]
        return render("housekeeping", count=len(made), size=size, names=names, cache=cache)

    def _unsure(self) -> Markup:
        return note("Nothing was removed: tick the box first.") + self._account()

    def _removed(self) -> Markup:
        problems = [_remove(path) for path in self.transferred()]
        self._host.adapters_changed()
        removed = problems.count("")
        said = f"{removed} transferred LoRA{' was' if removed == 1 else 's were'} removed."
        return note(said, *(problem for problem in problems if problem)) + self._account()

    def _freed(self) -> Markup:
        return render("freed", size=runtime(self._host).cache.clear()) + self._account()


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
