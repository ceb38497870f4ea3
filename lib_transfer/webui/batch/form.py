"""What is asked of a batch: folders and filters looked up in the program's own lists; no path is ever taken."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.errors import RequestError
from lib_transfer.library.adapters import Found, placed
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.index import AdapterFacts
from lib_transfer.webui.host.host import Host, files
from lib_transfer.webui.transfer.form import Order, chosen_names, method_of, settings_of, source_of, target_of
from lib_transfer.webui.transfer.work import settings_for

EVERYWHERE = "All LoRA folders"
CHOSEN = "The LoRAs chosen under Transfer"
ANY_BASE = "Any base"
ANY_ALGORITHM = "Any algorithm"


@dataclass(frozen=True)
class Asked:
    """The values of the controls, as the browser gives them; ``adapters`` are those chosen in the Transfer view."""

    folder: object
    deeper: object
    base: object
    algorithm: object
    name: object
    adapters: object
    target: object
    source: object
    method: object
    values: Sequence[Any]


@dataclass(frozen=True)
class BatchOrder:
    """What is to be done: the files, what is asked for all of them, and which of them count by what their headers say.

    Attributes:
        found: the files that the folder and the name select.
        target: the checkpoint that they are to work on.
        settings: how they are transferred.
        transferred: whether transferred LoRAs are carried on, too.
        base, algorithm: the filters that depend on what a file contains; "" for none.
    """

    found: tuple[Found, ...]
    target: Checkpoint
    settings: TransferSettings
    transferred: bool
    base: str
    algorithm: str

    def wanted(self, facts: AdapterFacts) -> bool:
        """Whether a file with these facts counts; one that cannot be read does, unless a filter is set."""
        fits = not self.base or self.base in facts.architectures
        return fits and (not self.algorithm or self.algorithm in facts.algorithms)


def batch_order(asked: Asked, host: Host) -> BatchOrder:
    """What the controls ask for.

    Raises:
        RequestError: something is missing, gone or out of range; the message says what to do.
    """
    method = method_of(asked.method)
    target = target_of(asked.target, host)
    order = Order({}, target, source_of(asked.source, host), method, settings_of(method, asked.values))
    names = _within(asked, files.adapters(host.adapter_folders()))
    pattern = asked.name.strip() if isinstance(asked.name, str) else ""
    matching = {name: path for name, path in names.items() if _matches(name, pattern)}
    if not matching:
        raise RequestError("No LoRA was found.", hint="Choose another folder, or other filters.")
    base = asked.base if isinstance(asked.base, str) and asked.base != ANY_BASE else ""
    algorithm = asked.algorithm if isinstance(asked.algorithm, str) and asked.algorithm != ANY_ALGORITHM else ""
    found = tuple(placed(matching, host.adapter_folders()))
    return BatchOrder(found, target, settings_for(order, host), asked.folder == CHOSEN, base, algorithm)


def folders(names: Mapping[str, Path]) -> list[str]:
    """Every folder that LoRAs lie in, below the LoRA folders, as the list shows it."""
    found = {"/".join(parts[:depth]) for name in names for parts in [name.split("/")] for depth in range(1, len(parts))}
    return sorted((f"{folder}/" for folder in found), key=str.casefold)


def _within(asked: Asked, names: Mapping[str, Path]) -> dict[str, Path]:
    """The LoRAs of the folder that was asked for, or those that were chosen."""
    if asked.folder == CHOSEN:
        chosen = chosen_names(asked.adapters, names)
        if not chosen:
            raise RequestError("No LoRA is chosen.", hint="Choose some under Transfer, or a folder here.")
        return {name: names[name] for name in sorted(chosen, key=str.casefold)}
    folder = "" if asked.folder == EVERYWHERE or not asked.folder else asked.folder
    if not isinstance(folder, str) or (folder and folder not in folders(names)):
        raise RequestError(
            f"The folder {str(folder)[:200]} is not in the LoRA folder any more.",
            hint="Press the refresh button beside the list and choose again.",
        )
    below = {name: path for name, path in names.items() if name.startswith(folder)}
    return {name: path for name, path in below.items() if asked.deeper or "/" not in name[len(folder) :]}


def _matches(name: str, pattern: str) -> bool:
    """Whether a name has the text in it, or matches it where it has ``*`` or ``?``."""
    name, pattern = name.casefold(), pattern.casefold()
    return fnmatch.fnmatchcase(name, pattern) if set("*?") & set(pattern) else pattern in name
