"""What the WebUI calls: builds the tab and the settings, and connects prompts and infotexts."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lib_transfer.webui.app.late import LateEvents
from lib_transfer.webui.app.settings_page import housekeeping, name_preview
from lib_transfer.webui.app.tab import ELEM_ID, TITLE, tab
from lib_transfer.webui.host.settings import PREFIX, SECTION, settings
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

    for setting in settings():
        component, options = kind_of(setting.parameter)
        shared.opts.add_option(
            PREFIX + setting.key,
            shared.OptionInfo(
                shown(setting.parameter, setting.default),
                setting.label,
                component,
                {"info": setting.help, **options},
                section=SECTION,
            ),
        )


def after_component(component: Any, **options: Any) -> None:
    """For ``on_after_component``: adds the name preview and the housekeeping behind the settings they belong to."""
    elem_id = options.get("elem_id") if within_a_page() else None
    if elem_id == f"setting_{PREFIX}template":
        name_preview(component)
    elif elem_id == f"setting_{PREFIX}{settings()[-1].key}":
        housekeeping(events().of("housekeeping"))
