"""The settings: kept, checked, obeyed; and what is left on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab


@pytest.fixture
def own(serve: Callable[[Path], Server], tmp_path: Path) -> Server:
    """A server whose settings no other test sees."""
    models.checkpoints(tmp_path)
    models.lora(tmp_path, "mine")
    return serve(tmp_path)


def setting(tab: Tab, name: str):
    return tab.page.locator(f"#setting_transfer_lora_{name} textarea, #setting_transfer_lora_{name} input")


def open_settings(tab: Tab) -> None:
    tab.page.locator("#tabs > .tab-nav > button").nth(1).click()
    setting(tab, "template").wait_for(state="visible")


def test_template_and_folder_are_shown_kept_and_obeyed_and_copies_can_be_removed(
    own: Server, window: Callable[..., Tab]
) -> None:
    tab = window(own.url).ready()
    open_settings(tab)
    setting(tab, "template").fill("{target}-{lora}")
    tab.part("name_preview").get_by_text("new-base-my-lora.safetensors").wait_for()
    setting(tab, "template").fill("{nonsense}")
    tab.part("name_preview").get_by_text("unknown token").wait_for()
    setting(tab, "template").fill("{target}-{lora}")
    setting(tab, "output_folder").fill("../made/ here")
    tab.page.locator("#settings_submit").click()
    tab.page.locator("#settings_result").first.get_by_text("The settings were stored.").wait_for()

    # Another window, as after a restart: what counts is what was stored.
    other = window(own.url).ready()
    other.choose("mine", target=models.TUNED)
    other.part("output").get_by_text("tuned-mine.safetensors").wait_for()
    assert other.run("transfer") == "Done: 1 written."
    [made] = own.files() - {"mine.safetensors"}
    assert Path(made).name == "tuned-mine.safetensors"
    assert (own.loras / made).resolve().is_relative_to(own.loras.resolve())

    # A different request under the same name is left alone.
    other.part("advanced").locator(".label-wrap").click()
    other.part("strength").locator("input[type=number]").fill("0.5")
    other.part("strength").locator("input[type=number]").blur()
    assert other.run("transfer") == "Done: 1 not transferred."
    assert "is there already" in other.rows()[0][1]

    tab.press("account")
    tab.part("housekeeping").get_by_text("1 transferred LoRA takes").wait_for()
    tab.press("remove_copies")
    tab.part("housekeeping").get_by_text("tick the box first").wait_for()
    assert made in own.files()
    tab.part("sure").locator("input").check()
    tab.press("remove_copies")
    tab.part("housekeeping").get_by_text("1 transferred LoRA was removed.").wait_for()
    assert own.files() == {"mine.safetensors"}
    tab.press("clear_cache")
    tab.part("housekeeping").get_by_text("were freed").wait_for()
