"""The Batch view in a browser: planned, run, watched, interrupted, sorted, filtered and saved."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab


class Batch:
    """The Batch view of an open page."""

    def __init__(self, tab: Tab) -> None:
        self.tab, self.page = tab, tab.page
        self.page.locator("#transfer_lora_views > .tab-nav button").nth(1).click()
        self.page.locator("#transfer_lora_root[data-view=batch]").wait_for()

    def part(self, name: str) -> Any:
        return self.tab.part(f"batch_{name}")

    def until(self, *states: str) -> str:
        """Wait until the batch is in one of ``states``; returns what the status says."""
        found = "document.querySelector('#transfer_lora_batch_status .transfer-lora-status')"
        # Both at once: the next batch may begin in between.
        said = f"() => {{ const it = {found}; return {list(states)!r}.includes(it?.dataset.state) && {{text: it.innerText}}; }}"
        text = self.page.wait_for_function(said).json_value()["text"]
        assert isinstance(text, str)
        return text

    def begin(self, button: str) -> None:
        """Press a button that starts a batch, and wait until it is another one than before."""
        job = "document.querySelector('#transfer_lora_batch_job textarea, #transfer_lora_batch_job input').value"
        before = self.page.evaluate(f"() => {job}")
        self.part(button).click()
        self.page.wait_for_function(f"() => {job} !== {before!r}")

    def run(self, button: str, *states: str) -> str:
        """The same, to the end."""
        self.begin(button)
        said = self.until(*(states or ("done",)))
        table, status = "#transfer_lora_batch_rows [data-parts]", "#transfer_lora_batch_status .transfer-lora-status"
        parts = [
            f"document.querySelector('{table}')?.dataset.parts",
            f"document.querySelector('{status}').dataset.done",
        ]
        self.page.wait_for_function(f"() => {' === '.join(parts)}")
        return said

    def rows(self) -> dict[str, str]:
        """Names and results of the rows that are to be seen, in their order."""
        script = "rows => rows.filter(row => !row.hidden).map(row => [row.cells[0].innerText, row.cells[1].innerText])"
        found = self.page.locator("#transfer_lora_batch_table tbody tr").evaluate_all(script)
        return {name.removeprefix(PLACE): result for name, result in found}

    def seen(self, condition: str) -> None:
        """Wait until something holds for the rows that are to be seen (``shown``, ``first``)."""
        rows = "const shown = document.querySelectorAll('#transfer_lora_batch_table tbody tr:not([hidden])')"
        self.page.wait_for_function(f"() => {{ {rows}; const first = shown[0]; return {condition}; }}")

    def saved(self, kind: str) -> str:
        """What the browser has saved after the button for it."""
        with self.page.expect_download() as caught:
            self.part(kind).click()
        assert caught.value.suggested_filename == f"transfer-lora-batch.{kind}"
        return Path(caught.value.path()).read_text(encoding="utf-8")


PLACE = "shelf/"


@pytest.fixture
def loras(server: Server) -> Iterator[Path]:
    """A folder of the common server with LoRAs in sub-folders; some do not fit, one is broken."""
    place = server.loras / PLACE
    shutil.rmtree(place, ignore_errors=True)
    for number, name in enumerate(("alpha", "beta", "styles/gamma", "styles/old/delta")):
        models.lora(server.models, PLACE + name, seed=number)
    models.lora(server.models, f"{PLACE}own", trained_on=models.TUNED)
    models.lora(server.models, f"{PLACE}styles/orphan", trained_on="gone.safetensors")
    (place / "<img src=x onerror=alert(1)>.safetensors").write_bytes(b"<html>")
    yield place
    server.hold.unlink(missing_ok=True)


@pytest.fixture
def view(window: Callable[..., Tab], server: Server, loras: Path) -> Batch:
    return opened(window(server.url, width=1500))


def opened(tab: Tab) -> Batch:
    """The view, with its folder and a target chosen."""
    view = Batch(tab.ready())
    tab.pick("batch_folder", PLACE)
    tab.pick("target", models.TUNED)
    return view


def test_planned_run_and_run_again(view: Batch, server: Server) -> None:
    before = server.files()
    said = view.run("plan")
    assert "7 LoRAs: 4 to convert, 1 left out, 2 failed." in said
    assert "of disk" in said
    assert "About " in said
    assert server.files() == before
    rows = view.rows()
    assert list(rows)[:3] == ["<img src=x onerror=alert(1)>", "alpha", "beta"]
    assert rows["alpha"] == "to convert"
    assert "HTML page" in rows["<img src=x onerror=alert(1)>"]
    assert "trained on the target itself" in rows["own"]
    assert "asks for gone.safetensors" in rows["styles/orphan"]

    said = view.run("run")
    assert said == "Done: 4 written, 1 left out, 2 failed."
    made = server.files() - before
    places = sorted(Path(name).parent.relative_to(PLACE).as_posix() for name in made)
    assert places == [".", ".", "styles", "styles/old"]
    assert view.rows()["styles/old/delta"] == "written"

    assert view.run("run") == "Done: 4 already done, 1 left out, 2 failed."
    assert server.files() - before == made

    # Sorted by a column, both ways; rows by a word and by their result.
    heading = view.page.locator("#transfer_lora_batch_table thead th").first
    heading.click()
    heading.click()
    view.seen("first.cells[0].innerText === 'shelf/styles/orphan'")
    assert list(view.rows())[-2:] == ["alpha", "<img src=x onerror=alert(1)>"]
    view.part("rows").get_by_text("4 already done").click()
    assert list(view.rows()) == ["styles/old/delta", "styles/gamma", "beta", "alpha"]
    view.part("filter").locator("textarea, input").fill("STYLES")
    view.seen("shown.length === 2")
    assert list(view.rows()) == ["styles/old/delta", "styles/gamma"]

    table = list(csv.DictReader(view.saved("csv").splitlines()))
    assert [row["name"] for row in table][1:3] == ["shelf/alpha", "shelf/beta"]
    assert {row["status"] for row in table} == {"already done", "left out", "failed"}
    told = json.loads(view.saved("json"))
    assert told["counts"] == {"already done": 4, "left out": 1, "failed": 2}
    assert Path(told["adapters"][1]["output"]).exists()


def test_a_folder_a_filter_and_a_selection(view: Batch, server: Server) -> None:
    offered = view.tab.options("batch_folder")
    assert offered[:2] == ["All LoRA folders", "The LoRAs chosen under Transfer"]
    assert {"shelf/", "shelf/styles/", "shelf/styles/old/"} <= set(offered)
    view.tab.pick("batch_folder", "shelf/styles/")
    view.run("plan")
    assert list(view.rows()) == ["styles/gamma", "styles/old/delta", "styles/orphan"]
    view.part("deeper").locator("input").uncheck()
    view.part("name").locator("textarea, input").fill("*g?mma")
    view.part("name").locator("textarea, input").blur()
    view.run("plan")
    assert list(view.rows()) == ["styles/gamma"]
    view.tab.pick("batch_base", "Stable Diffusion XL")
    assert "0 LoRAs: nothing to do" in view.run("plan")
    view.part("name").locator("textarea, input").fill("nothing like it")
    view.part("name").locator("textarea, input").blur()
    view.part("plan").click()
    assert "No LoRA was found." in view.until("refused")

    view.page.locator("#transfer_lora_views > .tab-nav button").first.click()
    view.tab.choose("shelf/beta", target=models.TUNED)
    view.page.locator("#transfer_lora_views > .tab-nav button").nth(1).click()
    view.part("name").locator("textarea, input").fill("")
    view.part("name").locator("textarea, input").blur()
    view.tab.pick("batch_base", "Any base")
    view.tab.pick("batch_folder", "The LoRAs chosen")
    assert view.run("run") == "Done: 1 written."
    assert list(view.rows()) == ["beta"]


def test_watched_one_left_out_and_interrupted(view: Batch, server: Server) -> None:
    view.tab.pick("batch_folder", "shelf/styles/")
    before = server.files()
    server.hold.touch()
    view.begin("run")
    view.until("running")
    skip = view.page.locator('#transfer_lora_batch_table [data-transfer-lora=skip][data-name="shelf/styles/gamma"]')
    skip.click()
    view.part("rows").get_by_text("will be left out").wait_for()
    view.part("status").get_by_text("0 of 2 LoRAs").wait_for()
    # A window that is reloaded finds its batch again.
    view.page.reload(wait_until="domcontentloaded")
    view = Batch(view.tab.ready())
    view.until("running")
    server.hold.unlink()
    assert view.until("done") == "Done: 1 written, 1 left out, 1 failed."
    assert [Path(name).name.split("_")[0] for name in server.files() - before] == ["delta"]

    view.tab.pick("target", models.VARIED)
    server.hold.touch()
    view.begin("run")
    view.page.locator("#transfer_lora_batch_table").wait_for()
    view.part("interrupt").click()
    # While its module is still held.
    assert view.until("stopped") == "Stopped. 0 LoRAs had been written; nothing is half-written."
    view.part("run").wait_for(state="visible")
    server.hold.unlink()
    assert len(server.files() - before) == 1


def test_it_can_be_read(window: Callable[..., Tab], server: Server, loras: Path) -> None:
    """At the width of a phone too: the table scrolls within itself, the page does not."""
    view = opened(window(server.url, theme="dark", width=400))
    view.run("plan")
    for theme in ("dark", "light"):
        view.tab.theme(theme)
        assert view.page.evaluate("() => document.documentElement.scrollWidth") == 400
        colours = view.page.locator("#transfer_lora_batch_table tbody th").first.evaluate(
            "cell => [getComputedStyle(cell).color, getComputedStyle(document.querySelector('gradio-app')).backgroundColor]"
        )
        levels = [sum(map(int, colour[4:-1].split(",")[:3])) for colour in colours]
        assert (levels[0] > levels[1]) == (theme == "dark")
        assert abs(levels[0] - levels[1]) > 300
