"""What a person asks for: the values of the controls, looked up and checked before anything runs.

Everything here comes from a browser. Names are looked up in the program's own lists; no path is ever taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer import methods as registry
from lib_transfer.errors import RequestError
from lib_transfer.formats.naming import safe_stem
from lib_transfer.methods import Method, Value
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Checkpoint, Host
from lib_transfer.webui.host.settings import NOT_SET, parameters

ACTIVE = "Active checkpoint"
"""The target that follows the WebUI's own choice."""

AUTOMATIC = "Found automatically"
"""The source that every LoRA's own metadata names."""

MAX_ADAPTERS = 5000


@dataclass(frozen=True)
class Asked:
    """The values of the controls, as the browser gives them."""

    adapters: object
    target: object
    source: object
    method: object
    values: Sequence[Any]


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Attributes:
        adapters: paths by name, in the order chosen.
        target: the checkpoint that the LoRAs are to work on.
        source: the checkpoint that was chosen as the source; None to find each LoRA's own.
        method: how.
        settings: of the method.
    """

    adapters: Mapping[str, Path]
    target: Checkpoint
    source: Checkpoint | None
    method: Method
    settings: Mapping[str, Value]


def order(asked: Asked, host: Host) -> Order:
    """What the controls ask for.

    Raises:
        RequestError: something is missing, gone or out of range; the message says what to do.
    """
    chosen = method_of(asked.method)
    return Order(
        adapters=_adapters(asked.adapters, host),
        target=target_of(asked.target, host),
        source=source_of(asked.source, host),
        method=chosen,
        settings=settings_of(chosen, asked.values),
    )


def method_of(title: object) -> Method:
    """The method of this title.

    Raises:
        RequestError: there is none.
    """
    for method in registry.METHODS:
        if method.title == title:
            return method
    raise RequestError("No method is chosen.", hint="Choose one under Method.")


def target_of(name: object, host: Host) -> Checkpoint:
    """The target that was picked, or the active checkpoint.

    Raises:
        RequestError: there is none, or it is gone.
    """
    if name == ACTIVE or not name:
        active = host.active().checkpoint
        if active is None:
            raise RequestError(
                "There is no checkpoint to transfer to.",
                hint="Put one into the WebUI's checkpoint folder and press the refresh button beside the list.",
            )
        return active
    return _checkpoint(name, host, "target")


def chosen_names(lines: object, names: Mapping[str, Path]) -> list[str]:
    """The names of those chosen lines that there are files for."""
    found = [files.name_in(line, names) for line in (lines if isinstance(lines, list) else [])[:MAX_ADAPTERS]]
    return list(dict.fromkeys(name for name in found if name is not None))


def sub_folder(host: Host) -> Path | None:
    """The folder that the settings name for new files, whether it is there or not; None for each LoRA's own."""
    parts = [part for part in str(host.setting("output_folder")).replace("\\", "/").split("/") if part.strip()]
    return host.adapter_folders()[0].joinpath(*map(safe_stem, parts)) if parts else None


def output_folder(host: Host) -> Path | None:
    """The folder that new files go to; None for each LoRA's own.

    Raises:
        RequestError: the sub-folder in the settings leads out of the LoRA folder, or cannot be made.
    """
    folder, root = sub_folder(host), host.adapter_folders()[0]
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"The output sub-folder {folder} cannot be made: {error.strerror}.", hint="Choose another in the settings."
        ) from error
    if not folder.resolve().is_relative_to(root.resolve()):
        raise RequestError(
            f"The output sub-folder {folder} leads out of the LoRA folder.", hint="Choose another in the settings."
        )
    return folder


def _adapters(lines: object, host: Host) -> dict[str, Path]:
    known = files.adapters(host.adapter_folders())
    if not isinstance(lines, list) or not lines:
        raise RequestError("No LoRA is chosen.", hint="Choose one or more under LoRAs.")
    for line in lines:
        if files.name_in(line, known) is None:
            raise RequestError(
                f"The LoRA {str(line)[:200]} is not in the LoRA folder any more.",
                hint="Press the refresh button beside the list and choose again.",
            )
    return {name: known[name] for name in chosen_names(lines, known)}


def source_of(name: object, host: Host) -> Checkpoint | None:
    """The source that was picked; None to find each LoRA's own.

    Raises:
        RequestError: it is gone.
    """
    return None if name == AUTOMATIC or not name else _checkpoint(name, host, "source")


def _checkpoint(name: object, host: Host, role: str) -> Checkpoint:
    found = host.checkpoints().get(name) if isinstance(name, str) else None
    if found is None:
        raise RequestError(
            f"The {role} checkpoint {str(name)[:200]} is not in the list any more.",
            hint="Press the refresh button beside the list and choose again.",
        )
    return found


def settings_of(method: Method, values: Sequence[Any]) -> dict[str, Value]:
    """The settings that ``method`` has, from the values of :func:`parameters`; the rest do not count.

    Raises:
        RequestError: a value is of the wrong kind or out of its range.
    """
    own = registry.parameters(method)
    given: dict[str, Value] = {}
    for parameter, value in zip(parameters(), values, strict=True):
        if value is not None and not isinstance(value, (str, int, float)):
            raise RequestError(f"The setting {parameter.name.replace('_', ' ')} is not a single value.")
        unset = value is None or value in ("", NOT_SET)
        if parameter in own and not unset:
            given[parameter.name] = value
    if given.get("subspace_rank") == 0:
        del given["subspace_rank"]
    if "subspace_rank" in given:
        # A fixed number takes the place of the energy, whose slider always has a value.
        given.pop("energy", None)
    return registry.settings(method, given)
