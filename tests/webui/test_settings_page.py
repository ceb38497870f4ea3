"""The settings: kept, checked, obeyed; and what is left on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

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


def apply(tab: Tab, notes: int) -> list[str]:
    """Press Apply settings; the notes that there are then, which are so many."""
    tab.page.locator("#settings_submit").click()
    said = tab.page.locator("#settings_result").first.locator(".transfer-lora-note")
    said.nth(notes - 1).wait_for()
    return said.all_inner_texts()


def test_template_and_folder_are_shown_kept_and_obeyed(own: Server, window: Callable[..., Tab]) -> None:
    tab = window(own.url).ready()
    open_settings(tab)
    setting(tab, "template").fill("{target}-{lora}")
    tab.part("name_preview").get_by_text("new-base-my-lora.safetensors").wait_for()
    setting(tab, "template").fill("{nonsense}")
    tab.part("name_preview").get_by_text("unknown token").wait_for()
    setting(tab, "template").fill("{target}-{lora}")
    setting(tab, "output_folder").fill("made/ here")
    assert apply(tab, 1) == ["The settings were stored."]

    # Folders that are not for us are refused while they are typed, and when they are to be stored.
    setting(tab, "output_folder").fill("../elsewhere")
    tab.part("output_folder_problem").get_by_text("leads out of the LoRA folder").wait_for()
    foreign = own.models / "Stable-diffusion"
    setting(tab, "cache_folder").fill(str(foreign))
    tab.part("cache_folder_problem").get_by_text("it holds files that are not Transfer LoRA's").wait_for()
    stored, output, cache = apply(tab, 3)
    assert stored == "The settings were stored."
    assert output.startswith("The output sub-folder ../elsewhere leads out of the LoRA folder.")
    assert cache.startswith(f"The cache folder {foreign} is not used: it holds files that are not Transfer LoRA's.")
    setting(tab, "cache_folder").fill("")
    tab.part("cache_folder_problem").get_by_text("not used").wait_for(state="detached")

    # Another window, as after a restart: what counts is what was stored.
    other = window(own.url).ready()
    other.choose("mine", target=models.TUNED)
    other.part("output").get_by_text("tuned-mine.safetensors").wait_for()
    assert other.run("transfer") == "Done: 1 written."
    assert own.files() == {"mine.safetensors", "made/here/tuned-mine.safetensors"}
    assert {path.suffix for path in foreign.iterdir()} == {".safetensors"}

    # A different request under the same name is left alone.
    other.part("advanced").locator(".label-wrap").click()
    other.part("strength").locator("input[type=number]").fill("0.5")
    other.part("strength").locator("input[type=number]").blur()
    assert other.run("transfer") == "Done: 1 not transferred."
    assert "is there already" in other.rows()[0][2]


def changed(path: Path, name: str, **request: Any) -> None:
    """A file beside ``path`` like it, with another name and other entries in its request."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    told = json.loads(metadata["transfer_lora.request"])
    metadata["transfer_lora.request"] = json.dumps({**told, **request})
    save_file(tensors, path.with_name(name), metadata)


def ticks(tab: Tab, name: str) -> dict[str, bool]:
    """The lines of a list, and whether they are ticked."""
    script = "all => all.map(each => [each.innerText.trim(), each.querySelector('input').checked])"
    return dict(tab.part(name).locator("label:has(input)").evaluate_all(script))


def test_copies_go_to_the_trash_and_come_back_and_only_what_can_be_made_again_is_ticked(
    own: Server, window: Callable[..., Tab]
) -> None:
    tab = window(own.url).ready()
    tab.choose("mine", target=models.TUNED)
    assert tab.run("transfer") == "Done: 1 written."
    [name] = own.files() - {"mine.safetensors"}
    made = own.loras / name
    made.with_suffix(".preview.png").write_bytes(b"a picture")
    changed(made, "a-friends.safetensors", adapter={"name": "hers", "sha256": "ab" * 32})
    changed(made, "expensive.safetensors", method="auto")
    (own.loras / "a-friends.json").write_text("{}")
    before = own.files()

    open_settings(tab)
    tab.press("account")
    tab.part("housekeeping").get_by_text("3 transferred LoRAs take").wait_for()
    tab.page.wait_for_function("document.querySelectorAll('#transfer_lora_copies label input').length === 3")
    lines = ticks(tab, "copies")
    friends, costly, again = sorted(lines, key=lambda line: (not line.startswith("a-"), not line.startswith("exp")))
    assert "from hers, base to tuned; not verified; cannot be made again: not installed: its parent LoRA" in friends
    assert "made by a search" in costly
    assert again.startswith(made.stem)
    assert "from mine, base to tuned; not verified; can be made again" in again
    assert f"made {time.strftime('%Y-%m-%d')}" in again
    assert [lines[line] for line in (friends, costly, again)] == [False, False, True]

    tab.press("discard")
    tab.part("housekeeping").get_by_text("1 transferred LoRA was moved to the trash.").wait_for()
    trashed = {f"trash/1/{name}.trash", f"trash/1/{made.stem}.preview.png"}
    assert own.files() == before - {name, f"{made.stem}.preview.png"} | trashed
    # Nobody takes it for a LoRA.
    assert not any(path.suffix in (".safetensors", ".pt", ".ckpt") for path in (own.loras / "trash").rglob("*"))
    tab.page.wait_for_function("document.querySelectorAll('#transfer_lora_trash label input').length === 1")
    [(line, ticked)] = ticks(tab, "trash").items()
    assert line.startswith(f"{made.stem} (1)")
    assert not ticked

    tab.press("restore")
    tab.part("refused").first.wait_for(state="attached")
    tab.page.locator("#transfer_lora_housekeeping_refused").first.get_by_text("Nothing was changed").wait_for()
    tab.part("trash").locator("label input").check()
    tab.press("restore")
    tab.part("housekeeping").get_by_text("1 transferred LoRA was put back.").wait_for()
    assert own.files() == before
    assert not (own.loras / "trash").exists()

    tab.page.wait_for_function("document.querySelectorAll('#transfer_lora_copies label input:checked').length === 1")
    tab.press("discard")
    tab.part("housekeeping").get_by_text("was moved to the trash.").wait_for()
    tab.press("empty_trash")
    tab.part("housekeeping").get_by_text("1 transferred LoRA was deleted for good.").wait_for()
    assert own.files() == before - {name, f"{made.stem}.preview.png"}
    tab.press("clear_cache")
    tab.part("housekeeping").get_by_text("were freed").wait_for()
