"""The whole way in a browser: what the page shows, and what is on disk afterwards."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from urllib.parse import unquote

from safetensors import safe_open

from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab


def test_analyse_shows_everything_and_writes_nothing(tab: Tab, server: Server) -> None:
    models.lora(server.models, "looked-at")
    tab.press("refresh")
    before = server.files()
    tab.choose("looked-at", target=models.TUNED)
    assert "base.safetensors, found by" in tab.part("chosen").inner_text()
    assert "fits the target" in tab.part("chosen").inner_text()

    assert tab.run("analyse") == "Done: 1 analysed, nothing written."
    [row] = tab.rows()
    assert row[:2] == ["looked-at", "analysed"]
    assert tab.answers() == ["Can be transferred: expect about what plain reuse gives."]
    details = tab.part("details")
    assert not details.locator(".transfer-lora-verdict").is_visible()
    tab.open_details()
    figures = details.locator("#transfer_lora_figures td").all_inner_texts()
    assert figures[:2] == [f"{models.MODULES} of {models.MODULES}", "100.0 %"]
    assert "not whether the LoRA works" in details.inner_text()
    details.locator(".transfer-lora-heat img").first.wait_for()
    assert details.locator(".transfer-lora-legend img").count() == 1
    assert details.locator("img").first.evaluate("picture => picture.naturalWidth") > 300
    table = list(csv.DictReader(io.StringIO(download(tab))))
    assert len(table) == models.MODULES == details.locator("#transfer_lora_modules tbody tr").count()
    assert all(0.8 <= float(line["similarity_left"]) <= 1 for line in table)
    assert server.files() == before


def download(tab: Tab) -> str:
    address = tab.part("details").locator("a[download]").get_attribute("href")
    return base64.b64decode(unquote(address).partition(",")[2]).decode()


def test_transfer_writes_a_lora_that_names_its_target(tab: Tab, server: Server) -> None:
    models.lora(server.models, "carried")
    tab.press("refresh")
    before = server.files()
    tab.choose("carried", target=models.TUNED)
    assert "carried_tuned_rotation_" in tab.part("output").inner_text()
    assert tab.run("transfer") == "Done: 1 written."
    [new] = server.files() - before
    tag = tab.part("overview").locator("code").inner_text()
    assert tag == f"<lora:{new.removesuffix('.safetensors')}:1>"
    with safe_open(server.loras / new, "pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert len(keys) == 3 * models.MODULES
    assert metadata["ss_sd_model_name"] == models.TUNED
    assert json.loads(metadata["transfer_lora.request"])["target"]["name"] == "tuned"

    tab.part("overview").get_by_text("Copy", exact=True).click()
    tab.part("overview").get_by_text("Copied", exact=True).wait_for()

    assert tab.run("transfer") == "Done: 1 there already."
    assert tab.rows()[0][1] == "already done"
    assert tab.answers() == ["Transferred already: expect about what plain reuse gives."]
    assert server.files() - before == {new}


def test_a_new_lora_is_in_the_list_after_refresh_and_what_is_chosen_stays(tab: Tab, server: Server) -> None:
    models.lora(server.models, "stays")
    tab.press("refresh")
    tab.choose("stays")
    models.lora(server.models, "folder/arrives")
    tab.press("refresh")
    tab.choose("folder/arrives")
    tokens = tab.part("adapters").locator(".token > span").all_inner_texts()
    assert [token.split("[")[0].strip() for token in tokens] == ["stays", "folder/arrives"]


def test_interrupt_is_over_at_once_and_leaves_nothing(tab: Tab, server: Server) -> None:
    models.lora(server.models, "stopped", seed=5)
    tab.press("refresh")
    before = server.files()
    tab.choose("stopped", target=models.TUNED)
    server.hold.touch()
    tab.press("transfer")
    tab.until("running")
    tab.part("interrupt").wait_for(state="visible")
    assert not tab.part("transfer").is_visible()
    tab.press("interrupt")
    said = tab.until("stopped")  # while its module is still held
    assert said == "Stopped. 0 LoRAs had been written; nothing is half-written."
    tab.part("transfer").wait_for(state="visible")
    server.hold.unlink()
    # Jobs run one after another: once the next is through, the stopped one is too.
    tab.run("analyse")
    assert server.files() == before


def test_skip_leaves_out_one_and_goes_on(tab: Tab, server: Server) -> None:
    models.lora(server.models, "skip-a", seed=1)
    models.lora(server.models, "skip-b", seed=2)
    tab.press("refresh")
    before = server.files()
    tab.choose("skip-a", "skip-b", target=models.TUNED)
    server.hold.touch()
    tab.press("transfer")
    # Before it stands still within a module, the job would leave the LoRA out at once and go on.
    tab.part("status").get_by_text("module 0 of").wait_for()
    tab.press("skip")
    tab.part("status").get_by_text("skipping this LoRA").wait_for()
    server.hold.unlink()
    assert tab.until("done") == "Done: 1 skipped, 1 written."
    assert [row[:2] for row in tab.rows()] == [["skip-a", "left out"], ["skip-b", "written"]]
    assert tab.answers()[0] == "Left out: nothing was written."
    assert [name.split("_")[0] for name in server.files() - before] == ["skip-b"]


def test_bad_files_are_sentences_and_do_not_stop_the_others(tab: Tab, server: Server) -> None:
    sound = models.lora(server.models, "sound", seed=3)
    (server.loras / "cut-off.safetensors").write_bytes(sound.read_bytes()[:2000])
    (server.loras / "pickled.pt").write_bytes(b"\x80\x02cos\nsystem\n(S'true'\ntR.")
    tab.press("refresh")
    before = server.files()
    tab.choose("cut-off", "pickled", "sound", target=models.TUNED)
    said = tab.part("chosen").locator("[role=alert]").inner_text()
    assert said.startswith("2 of the 3 chosen LoRAs cannot be transferred as things are.")
    assert said.count("cut-off.safetensors") == said.count("pickled.pt") == 1
    assert tab.run("transfer") == "Done: 2 not transferred, 1 written."
    cut, pickled, good = tab.rows()
    assert tab.answers()[:2] == ["Not transferred: nothing was written."] * 2
    assert "cut-off.safetensors" in cut[2]
    assert "pickled.pt" in pickled[2]
    assert good[1] == "written"
    assert len(server.files() - before) == 1
    assert "Traceback" not in tab.page.locator("body").inner_text()


def test_a_source_that_is_not_installed_is_named_and_relatives_are_offered(tab: Tab, server: Server) -> None:
    models.lora(server.models, "orphan", trained_on="gone-model.safetensors", seed=4)
    tab.press("refresh")
    tab.choose("orphan", target=models.TUNED)
    said = tab.part("chosen").inner_text()
    assert "It asks for gone-model.safetensors (SHA-256 ababababab), which is not installed." in said
    assert f"Installed ones of the same architecture: {models.BASE}, {models.TUNED}, {models.VARIED}." in said
    assert "the less the result is worth" in said
    assert tab.options("source") == ["Found automatically", models.BASE, models.TUNED, models.VARIED]
    assert not tab.part("transfer").is_enabled()

    tab.pick("source", models.BASE)
    tab.part("chosen").get_by_text("picked by you").wait_for()
    assert tab.run("transfer") == "Done: 1 written."
    assert "The LoRA asks for a checkpoint with the SHA-256 ababababab" in tab.rows()[0][2]


def test_a_target_of_another_architecture_is_refused_in_words(tab: Tab, server: Server) -> None:
    models.lora(server.models, "misfit", seed=6)
    tab.press("refresh")
    tab.choose("misfit", target=models.OTHER)
    tab.part("chosen").get_by_text("does not fit: the target is Stable Diffusion XL").wait_for()
    tab.run("transfer")
    assert "their weights do not correspond" in tab.rows()[0][2]


def test_nothing_chosen_says_what_to_do(tab: Tab) -> None:
    tab.press("transfer")
    assert tab.until("refused") == "No LoRA is chosen.\n\nChoose one or more under LoRAs."


def test_the_target_follows_the_active_checkpoint(tab: Tab) -> None:
    tab.part("target_line").get_by_text(models.BASE).wait_for()
    tab.page.locator("#setting_sd_model_checkpoint input").first.click()
    option = tab.page.locator("#setting_sd_model_checkpoint [data-testid=dropdown-option]")
    option.nth(1).click()
    tab.part("target_line").get_by_text(models.TUNED).wait_for()
    tab.page.locator("#setting_sd_model_checkpoint input").first.click()
    option.nth(0).click()
    tab.part("target_line").get_by_text(models.BASE).wait_for()


def test_methods_bring_their_own_controls(tab: Tab, server: Server) -> None:
    models.lora(server.models, "copied", trained_on=None, seed=7)
    tab.press("refresh")
    tab.choose("copied", target=models.TUNED)
    tab.part("advanced").locator(".label-wrap").click()
    tab.part("threshold").wait_for(state="visible")
    assert not tab.part("force").is_visible()
    tab.part("method").get_by_text("LoRA-X", exact=True).click()
    tab.part("force").wait_for(state="visible")
    tab.part("method").get_by_text("Reuse (as it is)", exact=True).click()
    tab.part("threshold").wait_for(state="hidden")
    tab.part("chosen").get_by_text("not needed by this method").wait_for()
    tab.part("strength").locator("input[type=number]").fill("0.5")
    tab.part("strength").locator("input[type=number]").blur()
    tab.part("rank").locator("textarea, input").first.fill("many")
    tab.part("rank").locator("textarea, input").first.blur()
    tab.press("transfer")
    assert "The setting rank cannot be 'many'." in tab.until("refused")
    tab.part("rank").locator("textarea, input").first.fill("full")
    tab.part("rank").locator("textarea, input").first.blur()
    tab.part("inserted").get_by_text("share", exact=True).click()
    assert tab.run("transfer") == "Done: 1 written."
    [made] = list(server.loras.glob("copied_tuned_reuse_*.safetensors"))
    with safe_open(made, "pt") as file:
        settings = json.loads(file.metadata()["transfer_lora.request"])["settings"]
    assert (settings["strength"], settings["rank"], settings["inserted"]) == (0.5, "full", "share")


def test_a_window_that_is_reloaded_finds_its_job_again(tab: Tab, server: Server) -> None:
    models.lora(server.models, "reloaded", seed=8)
    tab.press("refresh")
    tab.choose("reloaded", target=models.TUNED)
    server.hold.touch()
    tab.press("analyse")
    tab.page.locator("#transfer_lora_root[data-state=running]").wait_for()
    tab.page.reload(wait_until="domcontentloaded")
    tab.ready().until("running")
    server.hold.unlink()
    tab.until("done")
    tab.part("overview").get_by_text("reloaded").wait_for()


def test_two_windows_have_jobs_of_their_own(tab: Tab, server: Server, window: Callable[..., Tab]) -> None:
    models.lora(server.models, "first-window", seed=9)
    models.lora(server.models, "second-window", seed=10)
    tab.press("refresh")
    other = window(server.url).ready()
    tab.choose("first-window", target=models.TUNED)
    other.choose("second-window", target=models.TUNED)
    server.hold.touch()
    tab.press("transfer")
    tab.until("running")
    other.press("transfer")
    assert other.until("waiting") == "Waiting for another job to finish ..."
    server.hold.unlink()
    for each, name in ((tab, "first-window"), (other, "second-window")):
        assert each.until("done") == "Done: 1 written."
        assert [row[0] for row in each.rows()] == [name]
        assert len(list(server.loras.glob(f"{name}_*.safetensors"))) == 1
