"""What the WebUI calls: builds the tab and the settings, and connects prompts and infotexts."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lib_transfer.errors import RequestError
from lib_transfer.webui.app.late import LateEvents
from lib_transfer.webui.app.settings_page import folder_check, housekeeping, name_preview
from lib_transfer.webui.app.tab import ELEM_ID, TITLE, tab
from lib_transfer.webui.host.settings import FOLDERS, PREFIX, SECTION, settings
from lib_transfer.webui.hosts.program import Program
from lib_transfer.webui.prompt import axes, infotext
from lib_transfer.webui.shell.controls import kind_of, shown
from lib_transfer.webui.shell.gradio_compat import within_a_page

if TYPE_CHECKING:
    from lib_transfer.webui.prompt.generation import Prompts


@functools.cache
def events() -> LateEvents:
    """The events of this process. "Reload UI" makes a new tab, which finds its jobs again."""
    return LateEvents(Program())


def tabs() -> list[tuple[Any, str, str]]:
    """For ``on_ui_tabs``."""
    return [(tab(events()), TITLE, ELEM_ID)]


@functools.cache
def prompts() -> Prompts:
    """The object that rewrites the prompts of this process's generations."""
    return events().made().prompts()


def infotext_pasted(_: str, parameters: dict[str, Any]) -> None:
    """For ``on_infotext_pasted``."""
    infotext.restore(parameters)


def add_axes() -> None:
    """For ``on_ui_settings``, which is called before the plot lists its axes, with and without a page."""
    axes.add()


def add_settings() -> None:
    """For ``on_ui_settings``."""
    from modules import shared  # noqa: PLC0415 - only there within a WebUI

    # Options that name folders are hidden, and cannot be set, where the WebUI is told to hide such options.
    hidden = bool(getattr(shared.cmd_opts, "hide_ui_dir_config", False))
    restricted = getattr(shared, "restricted_opts", None)
    for setting in settings():
        component, options = kind_of(setting.parameter)
        named = PREFIX + setting.key
        onchange = None
        if setting.key in FOLDERS:
            options = {**options, "visible": not hidden}
            onchange = functools.partial(_check_folder, setting.key)
            if restricted is not None:
                restricted.add(named)
        shared.opts.add_option(
            named,
            shared.OptionInfo(
                shown(setting.parameter, setting.default),
                setting.label,
                component,
                {"info": setting.help, **options},
                onchange=onchange,
                section=SECTION,
            ),
        )


def _check_folder(key: str) -> None:
    """Called by the WebUI when the setting has changed. It puts the old value back where this raises an error.

    Raises:
        RequestError: the folder cannot be used.
    """
    problem = events().host.problem_of(key)
    if problem:
        raise RequestError(problem)


def after_component(component: Any, **options: Any) -> None:
    """For ``on_after_component``: adds what belongs to a setting behind its control."""
    elem_id = options.get("elem_id") if within_a_page() else None
    key = str(elem_id).removeprefix(f"setting_{PREFIX}")
    if elem_id == f"setting_{PREFIX}template":
        name_preview(events().host, component)
    elif elem_id == f"setting_{PREFIX}{key}" and key in FOLDERS:
        folder_check(events().host, component, key)
    elif elem_id == f"setting_{PREFIX}{settings()[-1].key}":
        housekeeping(events().host, events().of("housekeeping"))
