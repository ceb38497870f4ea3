"""What a batch is asked for: folders and filters, looked up in the program's own lists; a path is never accepted."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.errors import RequestError
from lib_transfer.library.adapters import Found, placed
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.transfer.form import (
    Order,
    chosen_names,
    method_of,
    order_controls,
    settings_of,
    source_of,
    target_of,
)

if TYPE_CHECKING:
    from lib_transfer.library.index import AdapterFacts

EVERYWHERE = "All LoRA folders"
CHOSEN = "The LoRAs chosen under Transfer"
ANY_BASE = "Any base"
ANY_ALGORITHM = "Any algorithm"


@dataclass(frozen=True)
class BatchOrder:
    """What is to be done.

    Attributes:
        found: the files that the folder and the name select.
        order: the target, the source, the method and its settings; its LoRAs are those of ``found``. None where those that may
            not load as they are are written anew, each for its own base.
        transferred: whether transferred LoRAs are carried on, too.
        base, algorithm: the filters that depend on what a file contains; "" for none.
    """

    found: tuple[Found, ...]
    order: Order | None
    transferred: bool
    base: str
    algorithm: str

    def wanted(self, facts: AdapterFacts) -> bool:
        """Whether a file with these facts is part of the batch. An unreadable file is, unless a filter is set."""
        fits = not self.base or self.base in facts.architectures
        return fits and (not self.algorithm or self.algorithm in facts.algorithms)


def batch_controls() -> tuple[str, ...]:
    """The names of the controls that a batch is read from."""
    which = ("batch_folder", "batch_deeper", "batch_base", "batch_algorithm", "batch_name", "batch_loadable")
    return (*which, *order_controls())


def batch_order(values: FormValues, host: Host) -> BatchOrder:
    """What the controls of :func:`batch_controls` ask for.

    Raises:
        RequestError: something is missing, gone or out of range; the message says what to do.
    """
    order = None if values["batch_loadable"] else _order(values, host)
    pattern = _text(values["batch_name"]).strip()
    names = _within(values, files.adapters(host.adapter_folders()))
    matching = {name: path for name, path in names.items() if _matches(name, pattern)}
    if not matching:
        raise RequestError("No LoRA was found.", hint="Choose another folder, or other filters.")
    return BatchOrder(
        tuple(placed(matching, host.adapter_folders())),
        order if order is None else replace(order, adapters=matching),
        transferred=values["batch_folder"] == CHOSEN,
        base=_text(values["batch_base"], ANY_BASE),
        algorithm=_text(values["batch_algorithm"], ANY_ALGORITHM),
    )


def _order(values: FormValues, host: Host) -> Order:
    """What is to be done with the LoRAs, which are looked for later."""
    method, target = method_of(values["method"]), target_of(values["target"], host)
    return Order({}, target, source_of(values["source"], host), method, settings_of(method, values))


def _text(value: object, anything: str = "") -> str:
    """A text from a browser; "" for what is no text, or is the choice that stands for anything."""
    return value if isinstance(value, str) and value != anything else ""


def folders(names: Mapping[str, Path]) -> list[str]:
    """Every folder that LoRAs lie in, below the LoRA folders, as the list shows it."""
    found = {"/".join(parts[:depth]) for name in names for parts in [name.split("/")] for depth in range(1, len(parts))}
    return sorted((f"{folder}/" for folder in found), key=str.casefold)


def _within(values: FormValues, names: Mapping[str, Path]) -> dict[str, Path]:
    """The LoRAs of the chosen folder, or those chosen under Transfer."""
    asked = values["batch_folder"]
    if asked == CHOSEN:
        chosen = chosen_names(values["adapters"], names)
        if not chosen:
            raise RequestError("No LoRA is chosen.", hint="Choose some under Transfer, or a folder here.")
        return {name: names[name] for name in sorted(chosen, key=str.casefold)}
    folder = "" if asked == EVERYWHERE or not asked else asked
    if not isinstance(folder, str) or (folder and folder not in folders(names)):
        raise RequestError(
            f"The folder {str(folder)[:200]} is not in the LoRA folder any more.",
            hint="Press the refresh button beside the list and choose again.",
        )
    below = {name: path for name, path in names.items() if name.startswith(folder)}
    return {name: path for name, path in below.items() if values["batch_deeper"] or "/" not in name[len(folder) :]}


def _matches(name: str, pattern: str) -> bool:
    """Whether a name has the text in it, or matches it where it has ``*`` or ``?``."""
    name, pattern = name.casefold(), pattern.casefold()
    return fnmatch.fnmatchcase(name, pattern) if set("*?") & set(pattern) else pattern in name
