"""Verify: a transferred LoRA and reuse on models that are run, in a browser; what it costs is said before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from lib_transfer.errors import RequestError
from lib_transfer.evaluation.record import records_in
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.webui.verify.form import CONTROLS, VerifyOrder, verify_order
from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab
from tests.webui.test_limits import keep

Window = Callable[..., Tab]


@pytest.fixture(autouse=True)
def let_go(server: Server) -> Iterator[None]:
    """A run that is held is let go at the end, and models follow adapters again."""
    yield
    server.hold.unlink(missing_ok=True)
    server.hold.with_suffix(".damped").unlink(missing_ok=True)


def transferred(window: Window, server: Server, name: str, seed: int) -> tuple[Tab, str]:
    """A tab with a LoRA that was transferred from base to tuned, and the stem of what was written."""
    models.lora(server.models, name, seed=seed)
    tab, before = window(server.url).ready(), server.files()
    tab.choose(name, target=models.TUNED)
    assert tab.run("transfer") == "Done: 1 written."
    [new] = server.files() - before
    tab.part("verification").locator(".label-wrap").click()
    tab.part("verify").wait_for(state="visible")
    return tab, new.removesuffix(".safetensors")


def table(tab: Tab) -> list[list[str]]:
    """Names, matches and verdicts, each with its title first."""
    tab.page.locator("#transfer_lora_verdicts").first.wait_for()
    script = "rows => rows.map(row => Array.from(row.cells).map(cell => cell.innerText))"
    rows = tab.page.locator("#transfer_lora_verdicts").first.locator("tr").evaluate_all(script)
    return [list(column) for column in zip(*rows, strict=True)]


def test_the_transferred_lora_and_plain_reuse_stand_side_by_side(
    window: Window, server: Server, tmp_path: Path
) -> None:
    tab, copy = transferred(window, server, "checked", 30)
    cost = tab.part("verify_cost")
    cost.get_by_text("At most 848 runs of the models; a time estimate follows").wait_for()
    tab.part("verify_inputs").locator("input").fill("2")
    tab.part("verify_inputs").locator("input").blur()
    cost.get_by_text("At most 548 runs of the models;").wait_for()
    before, loaded = server.files(), len(server.loaded)
    tab.part("verify_prompts").locator("textarea").fill("a cat\na longer prompt")
    tab.begin("verify")
    assert tab.until("done") == "Done: verified, and your checkpoint is loaded again."
    head, numbers, words = table(tab)
    assert head == ["LoRA", copy, "reuse"]
    # The layers of both are near each other, and reuse carries everything.
    assert float(numbers[1]) > 0.6
    assert float(numbers[2]) == pytest.approx(1, abs=0.3)
    assert words[1].startswith("Cannot be judged")
    assert "of the movement without the trigger words" in words[2]
    keep(tab, "verify")
    assert server.loaded[loaded:] == [models.TUNED, models.BASE, models.TUNED, "given back"]
    assert server.files() == before
    with safe_open(str(server.loras / f"{copy}.safetensors"), "pt") as file:
        found = json.loads(file.metadata()["transfer_lora.match"])
    assert found["gains"]["reuse"]["gain"] == pytest.approx(1, abs=0.3)
    assert found["best"] in head
    # What the transfer came to is still there, and the time is known now.
    assert [row[0] for row in tab.rows()] == ["checked"]
    assert "Domain gap:" in tab.part("verified").inner_text()
    assert tab.answers()[0].startswith("Running the models cannot tell: the two checkpoints draw different pictures.")
    assert tab.part("details").locator("summary").first.inner_text() == "Details of checked"
    cost.get_by_text("548 runs of the models, about").wait_for()


def verify(tab: Tab, **numbers: int) -> None:
    """Verify with these numbers, and wait for the result."""
    for name, number in {"inputs": 1, **numbers}.items():
        tab.part(f"verify_{name}").locator("input").fill(str(number))
        tab.part(f"verify_{name}").locator("input").blur()
    tab.begin("verify")
    tab.until("done")


def test_verifications_under_two_clip_skips_are_both_kept_and_come_back_with_the_lora(
    window: Window, server: Server
) -> None:
    models.lora(server.models, "never", seed=35)
    tab, _ = transferred(window, server, "twice", 34)
    verify(tab)
    shown = tab.part("verified")
    shown.get_by_text(
        "This holds for Clip skip 1, pictures of 512 pixels, seed 0, and 1 input of 4 prompts."
    ).wait_for()
    verify(tab, clip_skip=2)
    last = shown.get_by_text("This holds for Clip skip 2,")
    last.wait_for()
    assert shown.locator("details.transfer-lora-earlier").count() == 1
    # What is kept of the choice does not take the place of the last job's.
    kept = tab.part("kept_verified")
    tab.choose(target=models.VARIED).choose(target=models.TUNED)
    kept.get_by_text("This holds for Clip skip 2,").wait_for(state="attached")
    assert kept.is_hidden()
    assert last.is_visible()
    # After another job they are there still, and in a window that knows nothing of the jobs, once the LoRA is chosen.
    measured = tab.answers()
    tab.run("analyse")
    kept.get_by_text("This holds for Clip skip 2,").wait_for()
    assert tab.answers() == measured
    assert "The transferred LoRA that is there already was measured." in tab.rows()[0][2]
    again = window(server.url).ready()
    again.choose("never", target=models.TUNED)
    assert again.page.locator("#transfer_lora_kept_verdicts").count() == 0
    again.part("adapters").locator(".token-remove, .token [role=button]").first.click()
    again.choose("twice")
    shown = again.part("kept_verified")
    shown.get_by_text("This holds for Clip skip 2,").wait_for()
    earlier = shown.locator("summary", has_text="Verified before under Clip skip 1, seed 0")
    earlier.click()
    shown.get_by_text("This holds for Clip skip 1,").wait_for()
    keep(again, "verified-before")


def test_the_automatic_method_trains_what_reuse_weakens_and_quick_does_not(window: Window, server: Server) -> None:
    models.lora(server.models, "bettered", seed=33)
    tab = window(server.url).ready()
    tab.choose("bettered", target=models.TUNED)
    quick = tab.part("quick")
    assert not quick.is_visible()
    tab.part("advanced").locator(".label-wrap").click()
    tab.part("method").get_by_text("Automatic (runs both checkpoints)", exact=True).click()
    quick.wait_for()
    tab.part("cost").get_by_text("runs of the models").wait_for()
    # At another size than the other tests', for which pictures of these checkpoints are kept.
    for name, value in (("runs", "2600"), ("size", "256")):
        number = tab.part(name).locator("input").first
        number.fill(value)
        number.blur()
    # Every option is followed, not only what was chosen when the cost was asked for.
    tab.part("cost").get_by_text("At most 2592 runs of the models").wait_for()
    before, loaded = server.files(), len(server.loaded)
    assert tab.run("quick") == "Done: 1 written."
    [plain] = server.files() - before
    assert plain.startswith("bettered_tuned_rotation_")
    assert len(server.loaded) == loaded

    server.hold.with_suffix(".damped").touch()
    before = server.files()
    assert tab.run("transfer") == "Done: 1 written."
    assert server.loaded[loaded:][-1] == "given back"
    [new] = server.files() - before
    stem = new.removesuffix(".safetensors")
    assert stem.startswith("bettered_tuned_auto_")
    [answer] = tab.answers()
    assert answer.startswith("Better than reuse: ")
    assert tab.part("overview").locator("code").inner_text() == f"<lora:{stem}:1>"
    shown = tab.part("verified")
    shown.locator("tr", has_text="imitate").wait_for()
    shown.locator("figure", has_text="steps of training").wait_for()
    tab.part("advanced").locator(".label-wrap").click()
    keep(tab, "better")
    metadata = read_header(server.models / "Lora" / new).metadata
    assert json.loads(metadata["transfer_lora.request"])["method"] == "auto"
    [record] = records_in(metadata)
    assert record.gains["reuse"].share < 0.6 < record.gains["imitate"].share
    # The better one is what pictures are compared with.
    drawn = len(server.drawn)
    tab.part("overview").get_by_role("button", name="Compare pictures now").click()
    tab.part("status").get_by_text("Done: 4 pictures.").wait_for()
    assert server.drawn[-1][0] == f"<lora:{stem}:1>"
    assert len(server.drawn) == drawn + 4
    # The same again is there already.
    assert tab.run("transfer") == "Done: 1 there already."
    assert server.files() - before == {new}


def test_interrupt_stops_at_the_next_run_and_gives_the_checkpoint_back(window: Window, server: Server) -> None:
    tab, _ = transferred(window, server, "stopped", 31)
    loaded = len(server.loaded)
    server.hold.touch()
    tab.begin("verify")
    tab.wait("status.state === 'running'")
    server.wait_for_loads(loaded)
    tab.press("interrupt")
    assert tab.until("stopped").startswith("Stopped. Nothing was verified")
    server.hold.unlink()
    tab.run("analyse")
    assert server.loaded[loaded:] == [models.BASE, "given back"]
    assert tab.page.locator("#transfer_lora_verdicts").count() == 0


def test_what_cannot_be_verified_is_said(window: Window, server: Server) -> None:
    models.lora(server.models, "unwritten", seed=32)
    tab = window(server.url).ready()
    tab.choose("unwritten", target=models.TUNED)
    tab.run("analyse")
    tab.part("verification").locator(".label-wrap").click()
    tab.press("verify")
    said = tab.until("refused")
    assert said.startswith("No transferred LoRA is shown.")
    assert "Press Transfer first" in said
    assert [row[0] for row in tab.rows()] == ["unwritten"]


@pytest.mark.parametrize(
    "values",
    [
        ("", 0, 0, 0),
        ("", 65, 0, 0),
        ("", "many", 0, 0),
        (None, 8, 0, 0),
        ("", 8, -1, 0),
        ("", 8, None, 0),
        ("", 8, 0, 13),
        ("", 8, 0, -1),
        ("", 8, 0, "x"),
    ],
)
def test_values_out_of_their_range_are_refused(values: tuple[object, ...]) -> None:
    with pytest.raises(RequestError):
        verify_order(dict(zip(CONTROLS, values, strict=True)))


def test_prompts_are_lines() -> None:
    values = dict(zip(CONTROLS, (" a cat \n\n a dog\n", 4.0, 512, 2), strict=True))
    assert verify_order(values) == VerifyOrder(("a cat", "a dog"), 4, 512, 2)
