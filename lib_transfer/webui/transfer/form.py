"""What a person asks for: the values of the controls, looked up and checked before anything runs.

All values come from a browser. Names are looked up in the program's own lists; a path is never accepted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.methods import Method, Value
from lib_transfer.webui.host import files
from lib_transfer.webui.host.folders import check_within, sub_folder
from lib_transfer.webui.host.host import Checkpoint, Host
from lib_transfer.webui.host.settings import NOT_SET, parameters
from lib_transfer.webui.shell.form import FormValues

ACTIVE = "Active checkpoint"
"""The target that follows the WebUI's own selection."""

AUTOMATIC = "Found automatically"
"""The source that the metadata of each LoRA names."""

CHOICE = ("adapters", "target", "source", "method")
"""The controls that say which LoRAs go where, and how."""

ANSWERS = ("target_line", "chosen", "loadable", "output", "cost", "transfer")
"""The controls that tell what is known of the choice, and whether there is anything to make load or to transfer."""

RESULTS = ("overview", "picker", "details")
"""The controls that show the results of a job."""

MAX_ADAPTERS = 5000


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Attributes:
        adapters: the paths of the LoRAs by name, in the order in which they were chosen.
        target: the checkpoint that the LoRAs are transferred to.
        source: the checkpoint that was chosen as the source; None to find the source of each LoRA.
        method: the method.
        settings: the settings of the method.
    """

    adapters: Mapping[str, Path]
    target: Checkpoint
    source: Checkpoint | None
    method: Method
    settings: Mapping[str, Value]


def order_controls() -> tuple[str, ...]:
    """The names of the controls that an order is read from."""
    return (*CHOICE, *(parameter.name for parameter in parameters()))


def order(values: FormValues, host: Host) -> Order:
    """What the controls of :func:`order_controls` ask for.

    Raises:
        RequestError: something is missing, gone or out of range; the message says what to do.
    """
    chosen = method_of(values["method"])
    return Order(
        adapters=_adapters(values["adapters"], host),
        target=target_of(values["target"], host),
        source=source_of(values["source"], host),
        method=chosen,
        settings=settings_of(chosen, values),
    )


def first_method(host: Host) -> Method:
    """The method that the tab starts with: that of the settings, but none that runs models where that takes hours."""
    chosen = methods.get(str(host.setting("method")))
    quick = host.models is not None and host.models.on_gpu
    return methods.get(methods.DEFAULT) if chosen.runs_models and not quick else chosen


def by_weights(values: FormValues) -> FormValues:
    """The same values, but with the quick method where one is chosen that runs models."""
    chosen = method_of(values["method"])
    return {**values, "method": methods.get(methods.DEFAULT).title} if chosen.runs_models else values


def method_of(title: object) -> Method:
    """The method of this title.

    Raises:
        RequestError: there is none.
    """
    for method in methods.METHODS:
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
    """The names of the chosen lines that stand for an installed file."""
    found = [files.name_in(line, names) for line in (lines if isinstance(lines, list) else [])[:MAX_ADAPTERS]]
    return list(dict.fromkeys(name for name in found if name is not None))


def remembered(text: object) -> dict[str, Any]:
    """What a window remembers of its choice, by the names of :data:`CHOICE`: of any kind, and not looked up yet."""
    try:
        choice = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return {name: choice[name] for name in CHOICE if choice.get(name)} if isinstance(choice, dict) else {}


def output_folder(host: Host) -> Path | None:
    """The folder for new files; None for the folder of each LoRA.

    Raises:
        RequestError: the sub-folder in the settings leads out of the LoRA folder, or cannot be made.
    """
    text, root = str(host.setting("output_folder")), host.adapter_folders()[0]
    folder = sub_folder(text, root)
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"The output sub-folder {text} cannot be made: {error.strerror}.", hint="Choose another in the settings."
        ) from error
    check_within(folder, root, text)
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
    """The source that was picked; None to find the source of each LoRA.

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


def settings_of(method: Method, values: FormValues) -> dict[str, Value]:
    """The settings of ``method``, from the values of its parameters by name; values of other parameters are ignored.

    Raises:
        RequestError: a value is of the wrong kind or out of its range.
    """
    own = methods.parameters(method)
    given: dict[str, Value] = {}
    for parameter in parameters():
        value = values[parameter.name]
        if value is not None and not isinstance(value, (str, int, float)):
            raise RequestError(f"The setting {parameter.name.replace('_', ' ')} is not a single value.")
        unset = value is None or value in ("", NOT_SET)
        if parameter in own and not unset:
            given[parameter.name] = value
    if given.get("subspace_rank") == 0:
        del given["subspace_rank"]
    if "subspace_rank" in given:
        # A fixed number takes precedence over the energy, whose slider always has a value.
        given.pop("energy", None)
    return methods.settings(method, given)
