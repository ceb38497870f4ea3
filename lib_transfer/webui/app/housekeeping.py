"""What transfers have left on disk: the transferred LoRAs, their trash, and the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from lib_transfer.errors import RequestError
from lib_transfer.formatting import size as in_bytes
from lib_transfer.webui.app import trash
from lib_transfer.webui.app.copies import Copy, copies
from lib_transfer.webui.app.trash import Discarded
from lib_transfer.webui.compare.kept import KeptComparisons
from lib_transfer.webui.host import files
from lib_transfer.webui.host.folders import sub_folder
from lib_transfer.webui.host.settings import FOLDERS
from lib_transfer.webui.shell.events import TabEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.shell.html import note, render
from lib_transfer.webui.transfer.work import runtime

ALL = object()
"""Stands for every line of a list."""

One = TypeVar("One", Copy, Discarded)


class Housekeeping:
    """The transferred LoRAs and the cache of the program that ``tab`` is for.

    Files go to the trash and come back one event at a time, so that no two take the same name.
    """

    def __init__(self, tab: TabEvents) -> None:
        self._host = tab.host
        self._lock = threading.Lock()

    def account(self, _: FormValues) -> dict[str, Any]:
        """What there is, and how much space it takes."""
        return self._account()

    def discard(self, values: FormValues) -> dict[str, Any]:
        """Put the ticked LoRAs into the trash, with their side files."""

        def one(copy: Copy) -> None:
            trash.discard(copy.path, self._base(copy.path))

        return self._done(one, values["copies"], self._copies, "moved to the trash")

    def restore(self, values: FormValues) -> dict[str, Any]:
        """Put the ticked LoRAs of the trash back where they were."""
        return self._done(trash.restore, values["trash"], self._trash, "put back")

    def empty_trash(self, _: FormValues) -> dict[str, Any]:
        """Remove everything in the trash for good."""
        return self._done(trash.delete, ALL, self._trash, "deleted for good")

    def clear_cache(self, _: FormValues) -> dict[str, Any]:
        """Remove every cached decomposition, and the comparisons that were kept."""
        # What the list says of the files is known from the cache, so it is made first.
        made = self._account()
        freed = runtime(self._host).cache.clear() + KeptComparisons(self._host).clear()
        return {**made, "housekeeping": render("freed", size=freed) + self._summary(self._copies(), self._trash())}

    def _done(
        self, act: Callable[[One], object], lines: object, list_them: Callable[[], Mapping[str, One]], what: str
    ) -> dict[str, Any]:
        """Do something to every ticked one of a list, or to all; the lists as they are then, and what was done."""
        with self._lock:
            there = list_them()
            chosen = list(there) if lines is ALL else _chosen(lines, there)
            if not chosen:
                raise RequestError(
                    "Nothing was changed: there is nothing to do it to.",
                    hint="Tick some LoRAs in the list above the button.",
                )
            problems = [_tried(act, name, there[name]) for name in chosen]
        self._host.adapters_changed()
        done = problems.count("")
        said = note(
            f"{done} transferred LoRA{' was' if done == 1 else 's were'} {what}.", *(each for each in problems if each)
        )
        updates = self._account()
        return {**updates, "housekeeping": said + updates["housekeeping"]}

    def _account(self) -> dict[str, Any]:
        made, thrown = self._copies(), self._trash()
        lines = {name: files.entry(name, copy.facts()) for name, copy in made.items()}
        ticked = [lines[name] for name, copy in made.items() if copy.again]
        gone = [files.entry(name, in_bytes(one.size())) for name, one in thrown.items()]
        return {
            "housekeeping": self._summary(made, thrown),
            "copies": gr.update(choices=list(lines.values()), value=ticked),
            "trash": gr.update(choices=gone, value=[]),
        }

    def _summary(self, made: Mapping[str, Copy], thrown: Mapping[str, Discarded]) -> Any:
        size = sum(trash.size_of([copy.path, *trash.side_files(copy.path)]) for copy in made.values())
        return render(
            "housekeeping",
            count=len(made),
            size=size,
            again=sum(copy.again for copy in made.values()),
            trash=sum(one.size() for one in thrown.values()),
            cache=runtime(self._host).cache.contents(),
            problems=[problem for key in FOLDERS if (problem := self._host.problem_of(key))],
        )

    def _copies(self) -> dict[str, Copy]:
        return copies(self._host, files.adapters(self._host.adapter_folders()))

    def _trash(self) -> dict[str, Discarded]:
        return {one.name: one for one in trash.contents(self._host.adapter_folders())}

    def _base(self, path: Path) -> Path:
        """The folder whose trash a file goes to: the output folder if it lies there, else its LoRA folder."""
        roots = self._host.adapter_folders()
        outputs = None
        if not self._host.problem_of("output_folder"):
            outputs = sub_folder(str(self._host.setting("output_folder")), roots[0])
        bases = [*([outputs] if outputs is not None else []), *roots]
        return next(base for base in bases if path.is_relative_to(base))


def _chosen(lines: object, names: Collection[str]) -> list[str]:
    """The names of the lines that stand for something in the list; the lines come from a browser."""
    known = {name: Path() for name in names}
    found = [files.name_in(line, known) for line in (lines if isinstance(lines, list) else [])]
    return list(dict.fromkeys(name for name in found if name is not None))


def _tried(act: Callable[[One], object], name: str, one: One) -> str:
    """Why it could not be done; "" where it was done."""
    try:
        act(one)
    except OSError as error:
        return f"{name} stays where it is: {error.strerror or error}."
    return ""
