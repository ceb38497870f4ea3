"""The tab in a real WebUI, in a browser: ``pytest tests/webui --webui DIR``. Left out where no WebUI is given."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Error, Locator
from safetensors.torch import load_file, save_file

from lib_transfer.evaluation.record import records_in
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.webui.hosts.running.forge_model import SKIPPING
from tests.waiting import HANG, until
from tests.webui.driver import Tab
from tests.webui.real import WebUI, architecture_of, lora_for, pixels_of
from tests.webui.test_batch import Batch
from tests.webui.test_limits import keep
from tests.webui.test_loading import dotted
from tests.webui.test_safety import ATTACK, ask, config, events, other_page, throw, token
from tests.webui.test_verify import table

__all__ = ["other_page"]

pytestmark = pytest.mark.timeout(0)  # a real model on a processor: each wait has its limit, the whole has none
Window = Callable[..., Tab]
PROMPT = "a cat"
BOX = {"alwayson_scripts": {"Transfer LoRA": {"args": [True]}}}


def test_a_transfer_from_the_list_to_the_prompt(webui: WebUI, window: Window) -> None:
    webui.picture(PROMPT)  # the program loads its model only now, in peace
    tab = webui.tab(window)
    tab.choose("learned", target=webui.target.name)
    assert f"{webui.source.name}, found by" in tab.part("chosen").inner_text()
    began = time.monotonic()
    assert tab.run("transfer").startswith("Done: 1 written.")
    took = time.monotonic() - began
    row = tab.rows()[0]
    [new] = webui.copies()
    tag = tab.part("overview").locator("code").first.inner_text()
    assert tag == f"<lora:{new.stem}:1>"
    assert new.stem in [listed["name"] for listed in webui.call("sdapi/v1/loras")]
    keep(tab, f"{webui.target.stem}-real")

    without, again = webui.picture(PROMPT), webui.picture(PROMPT)
    with_new, with_old = webui.picture(f"{PROMPT} {tag}"), webui.picture(f"{PROMPT} <lora:learned:1>")
    differences = [float(np.abs(picture - without).mean()) for picture in (again, with_new, with_old)]
    between = float(np.abs(with_new - with_old).mean())
    print(f"\n{row}\ntransferred in {took:.0f} s; mean difference of pixels to no LoRA: again {differences[0]:.3f},")
    print(f"new {differences[1]:.3f}, original {differences[2]:.3f}; new to original {between:.3f}")
    assert differences[0] == 0
    assert differences[1] > 0.2
    assert between < 2 * max(differences)

    tab.part("overview").get_by_text("Send to txt2img", exact=True).click()
    prompt = tab.page.locator("#txt2img_prompt textarea")
    prompt.wait_for(state="visible")
    assert prompt.input_value().endswith(tag)


def transferred(webui: WebUI, window: Window) -> Path:
    """The transferred LoRA; it is made in the tab, if it was not before."""
    if not webui.copies():
        tab = webui.tab(window)
        tab.choose("learned", target=webui.target.name)
        tab.run("transfer")
    [copy] = webui.copies()
    return copy


def txt2img(webui: WebUI, window: Window) -> Tab:
    """A page with txt2img open, whose scripts are all at work."""
    tab = webui.tab(window)
    tab.page.locator("#tabs > .tab-nav > button").first.click()
    return tab


def test_the_button_of_a_card_chooses_its_lora(webui: WebUI, window: Window) -> None:
    copy = transferred(webui, window)
    tab = txt2img(webui, window)
    tab.page.locator("#txt2img_extra_tabs > .tab-nav > button").get_by_text("Lora", exact=True).click()
    card = tab.page.locator(f'#txt2img_lora_cards .card[data-name="{copy.stem}"]').first
    card.wait_for(state="visible")
    card.hover()
    card.locator(".transfer-lora-card").click()
    tab.part("adapters").locator(".token").get_by_text(copy.stem).wait_for()
    assert tab.part("adapters").is_visible()
    # The copy is for that target already, which its own metadata says.
    tab.pick("target", webui.target.name)
    tab.part("chosen").get_by_text("the target itself: nothing to transfer").first.wait_for()
    assert tab.page.locator("#txt2img_prompt textarea").input_value() == ""


def pick(tab: Tab, field: Locator, start: str) -> None:
    """Choose what begins with ``start`` from one of the program's own lists, which open when they get the focus."""
    option = tab.page.locator(f'[data-testid=dropdown-option][aria-label^="{start}"]').first

    def opened() -> bool:
        field.blur()
        field.click()
        with contextlib.suppress(Error):
            option.wait_for(timeout=5000)
        return option.is_visible()

    until(opened)
    option.click()


def switch(webui: WebUI, tab: Tab, checkpoint: Path) -> None:
    """Choose a checkpoint in the program's own bar, at a person's pace.

    Forge's and Forge Neo's pages now and then show a choice that they never sent; it is undone there, and made again.
    """
    # Each program has its list above the tabs; in A1111 and Forge Neo it has an id, in Forge only a label.
    bar = "#setting_sd_model_checkpoint input, input[aria-label*=checkpoint i]:not(#tabs *)"
    field = tab.page.locator(bar).locator("visible=true").first
    other = webui.source if checkpoint == webui.target else webui.target

    def taken() -> bool:
        tab.page.wait_for_timeout(5000)
        pick(tab, field, checkpoint.name)
        tab.page.wait_for_timeout(5000)
        if webui.checkpoint() == checkpoint.name:
            return True
        pick(tab, field, other.name)
        return False

    until(taken)


def test_the_target_follows_the_programs_own_bar(webui: WebUI, window: Window) -> None:
    webui.picture(PROMPT, webui.target)
    tab = webui.tab(window)
    line = tab.page.locator("#transfer_lora_target_line")
    line.locator(f'[data-target="{webui.target.name}"]').first.wait_for()
    for checkpoint in (webui.source, webui.target):
        switch(webui, tab, checkpoint)
        line.locator(f'[data-target="{checkpoint.name}"]').first.wait_for()
    # And where it was switched while the tab was out of sight.
    tab.page.locator("#tabs > .tab-nav > button").first.click()
    switch(webui, tab, webui.source)
    tab.page.locator("#tabs > .tab-nav > button").get_by_text("Transfer LoRA", exact=True).click()
    line.locator(f'[data-target="{webui.source.name}"]').first.wait_for()
    switch(webui, tab, webui.target)
    line.locator(f'[data-target="{webui.target.name}"]').first.wait_for()


def test_a_page_of_another_origin_can_do_nothing(webui: WebUI, browser: Browser, other_page: int) -> None:
    thrown = throw(webui)
    page = config(webui)
    number, _ = events(page)["empty_trash"]
    ours = [name for name in events(page) if name in ("transfer", "verify", "empty_trash", "batch_run")]
    assert len(ours) == 4
    assert all(events(page)[name][1]["api_name"] is False for name in ours)
    # It would know even the token.
    body = json.dumps({"fn_index": number, "data": [token(page)], "session_hash": "abc", "event_data": None})
    paths = ["run/predict", "api/predict", "queue/join", f"call/{number}", "call/empty_trash", "call/predict"]
    calls = [(path, body, kind) for kind in ("", "application/json") for path in paths]
    context, before = browser.new_context(), webui.files()
    try:
        for name in ("127.0.0.1", "localhost"):
            attacker = context.new_page()
            attacker.goto(f"http://{name}:{other_page}/")
            assert len(attacker.evaluate(ATTACK, [webui.url, calls])) == len(calls)
            assert webui.files() == before
    finally:
        context.close()
    # The same call is obeyed where no page of another origin makes it.
    assert "deleted for good" in ask(webui, "empty_trash", [token(page)])
    assert not thrown.exists()


def fill(tab: Tab, **values: object) -> None:
    """Write numbers and texts into fields of the tab."""
    for name, value in values.items():
        field = tab.part(name).locator("input[type=number], textarea").first
        field.fill(str(value))
        field.blur()


def verification(webui: WebUI, window: Window, name: str = "learned") -> Tab:
    """A page that shows a transferred LoRA, with the panel for verifications open."""
    tab = webui.tab(window)
    tab.choose(name, target=webui.target.name)
    tab.run("transfer")
    tab.part("verification").locator(".label-wrap").first.click()
    tab.part("verify").wait_for(state="visible")
    fill(tab, verify_inputs=1, verify_size=64)
    return tab


def test_verifications_under_two_clip_skips_are_both_kept_and_shown(webui: WebUI, window: Window) -> None:
    if architecture_of(webui.source).family not in SKIPPING:
        pytest.skip("prompts of this family are always encoded in the same way")
    tab, persons = verification(webui, window), webui.checkpoint()
    [copy] = webui.copies()
    shown = {}
    for clip_skip in (1, 2):
        fill(tab, verify_clip_skip=clip_skip)
        tab.begin("verify")
        assert tab.until("done").startswith("Done: verified, and your checkpoint is loaded again.")
        tab.part("verified").get_by_text(f"This holds for Clip skip {clip_skip},").first.wait_for()
        shown[clip_skip] = table(tab)[1]
    print(f"\ngains by Clip skip: {shown}")
    assert shown[1] != shown[2]
    keep(tab, f"{webui.target.stem}-verified")
    noted = {r.conditions.clip_skip[1]: r.gains for r in records_in(read_header(copy).metadata) if r.conditions}
    assert noted.keys() == {1, 2}
    assert noted[1]["reuse"].share != noted[2]["reuse"].share
    assert webui.checkpoint() == persons

    again = webui.tab(window)
    again.choose("learned", target=webui.target.name)
    again.part("kept_verified").get_by_text("This holds for Clip skip 2,").first.wait_for()
    again.part("kept_verified").locator("summary", has_text="Verified before under Clip skip 1").first.click()
    again.part("kept_verified").get_by_text("This holds for Clip skip 1,").first.wait_for()


def test_the_automatic_method_comes_to_an_end(webui: WebUI, window: Window) -> None:
    # One that moves the source by more than the checkpoints differ; else nothing is trained.
    lora_for(webui.source, webui.loras / "strong.safetensors", size=0.3)
    webui.picture(PROMPT)  # the program loads its model only now
    tab, persons = webui.tab(window), webui.call("transfer-lora-probe/state", {})
    tab.choose("strong", target=webui.target.name)
    tab.part("advanced").locator(".label-wrap").click()
    tab.part("method").get_by_text("Automatic (runs both checkpoints)", exact=True).click()
    fill(tab, runs=2000, size=64)
    tab.part("cost").get_by_text("runs of the models").first.wait_for()
    before, began = webui.files(), time.monotonic()
    # Thousands of runs of a whole model on a processor.
    tab.page.set_default_timeout(3 * 3600 * 1000)
    said = tab.run("transfer")
    print(f"\nran for {time.monotonic() - began:.0f} s: {said}\n{tab.answers()}")
    keep(tab, f"{webui.target.stem}-automatic")
    assert webui.call("transfer-lora-probe/state", {}) == persons
    [new] = {Path(name).stem for name in webui.files() - before if name.endswith(".safetensors")}
    tag = f"<lora:{new}:1>"
    assert np.abs(webui.picture(f"{PROMPT} {tag}") - webui.picture(PROMPT)).mean() > 0
    metadata = read_header(webui.loras / f"{new}.safetensors").metadata
    assert json.loads(metadata["transfer_lora.request"])["method"] == "auto"
    assert "reuse" in records_in(metadata)[0].gains


def test_a_batch_is_interrupted_and_taken_up_again(webui: WebUI, window: Window) -> None:
    many = [f"many/pupil{number}" for number in range(8)]
    for number, name in enumerate(many):
        lora_for(webui.source, webui.loras / f"{name}.safetensors", first=number, every=30)
    view = Batch(webui.tab(window))
    view.tab.pick("batch_folder", "many/")
    view.tab.pick("target", webui.target.name)
    assert f"{len(many)} LoRAs: {len(many)} to convert" in view.run("plan")
    view.begin("run")
    # All of them are converted module by module, and written one after another at the end.
    status = "document.querySelector('#transfer_lora_batch_status .transfer-lora-status').dataset"
    view.page.wait_for_function(f"() => {status}.state === 'running' && {status}.share > 0")
    view.part("interrupt").click()
    said = view.until("stopped")
    first = {path.name for path in (webui.loras / "many").glob("pupil?_*")}
    print(f"\n{said}")
    assert len(first) < len(many)
    assert f"{len(first)} LoRA" in said
    # Another page goes on with it.
    view = Batch(webui.tab(window))
    view.tab.pick("batch_folder", "many/")
    view.tab.pick("target", webui.target.name)
    there = f", {len(first)} already done" if first else ""
    assert view.run("run").startswith(f"Done: {len(many) - len(first)} written{there}.")
    made = {path.name for path in (webui.loras / "many").glob("pupil?_*")}
    assert first < made
    assert len(made) == len(many)
    keep(view.tab, f"{webui.target.stem}-batch")
    assert view.run("run").startswith(f"Done: {len(many)} already done.")


def under_other_names(path: Path) -> Path:
    """A LoRA of the same tensors by their path in the checkpoint behind ``net.``, or diffusers' behind ``base_model.model.``."""
    tensors = {key: t.clone() for key, t in load_file(path).items() if key.startswith("lora_unet_")}
    words = ("llm_adapter", "self_attn", "cross_attn", "q_proj", "k_proj", "v_proj", "output_proj", "o_proj")
    renamed = {}
    for key, tensor in tensors.items():
        name, _, suffix = key.removeprefix("lora_unet_").partition(".")
        if "attentions" in name:
            renamed["base_model.model." + dotted(key)] = tensor
            continue
        for word in words:
            name = name.replace(word, word.replace("_", "+"))
        renamed[f"net.{name.replace('_', '.').replace('+', '_')}.{suffix}"] = tensor
    save_file(tensors, path, {"ss_output_name": path.stem})
    odd = path.with_stem("odd")
    save_file(renamed, odd, {"ss_base_model_version": read_header(path).metadata.get("ss_base_model_version", "")})
    return odd


def test_a_lora_that_does_not_load_is_made_to(webui: WebUI, window: Window) -> None:
    even = webui.loras / "even.safetensors"
    lora_for(webui.source, even)
    under_other_names(even)
    webui.picture(PROMPT)
    tab = webui.tab(window)
    tab.choose("odd", target=webui.target.name)
    tab.part("loadable").wait_for()
    assert "odd may not load as it is." in tab.part("chosen").inner_text()
    keep(tab, f"{webui.target.stem}-may-not-load")
    assert tab.run("loadable") == "Done: 1 written."
    keep(tab, f"{webui.target.stem}-loads")
    [made] = webui.loras.glob("odd_converted_*.safetensors")
    without, right = webui.picture(PROMPT), webui.picture(f"{PROMPT} <lora:even:1>")
    assert not np.array_equal(right, without)
    assert np.array_equal(webui.picture(f"{PROMPT} <lora:{made.stem}:1>"), right)
    assert np.array_equal(webui.picture(f"{PROMPT} <lora:odd:1>"), without)


def test_the_programs_settings_page_has_ours(webui: WebUI, window: Window) -> None:
    tab = webui.tab(window)
    tab.page.locator("#tabs > .tab-nav > button").get_by_text("Settings", exact=True).click()
    tab.page.locator("#settings > .tab-nav > button").get_by_text("Transfer LoRA", exact=True).click()
    field = tab.page.locator("#setting_transfer_lora_template textarea, #setting_transfer_lora_template input").first
    field.wait_for(state="visible")
    keep(tab, f"{webui.target.stem}-settings")
    for template in ("{lora} on {target}", field.input_value()):
        field.fill(template)
        field.blur()

        def kept(wanted: str = template) -> bool:
            tab.page.locator("#settings_submit").click()
            tab.page.wait_for_timeout(3000)
            settings = json.loads((webui.data / "config.json").read_text(encoding="utf-8"))
            return settings.get("transfer_lora_template") == wanted

        until(kept)


def test_compare_in_the_tab(webui: WebUI, window: Window) -> None:
    tab = webui.tab(window)
    tab.choose("learned", target=webui.target.name)
    tab.part("comparison").locator(".label-wrap").first.click()
    fill(tab, prompt=PROMPT, steps=1, width=64, height=64, seed=1)
    tab.begin("compare")
    assert "4 pictures." in tab.until("done").splitlines()[0]
    figures = tab.part("pictures").locator("figure")
    roles = [figure.get_attribute("data-role") for figure in figures.all()]
    assert roles == ["without", "source", "reuse", "transferred"]
    assert figures.locator("img").count() == 4
    assert "differs by" in figures.nth(3).inner_text()
    keep(tab, f"{webui.target.stem}-compare")


def paste(tab: Tab, infotext: str) -> Locator:
    """Read a picture's parameters into txt2img, as the program's own button does; the prompt's field."""
    prompt = tab.page.locator("#txt2img_prompt textarea")
    prompt.fill(infotext)
    tab.page.locator("#txt2img_tools #paste").click()
    return prompt


def test_the_page_restores_tag_and_box_and_says_what_went_otherwise(webui: WebUI, window: Window) -> None:
    tab = txt2img(webui, window)
    box = tab.page.locator("#transfer_lora_txt2img_use input")
    for written, more in (
        (f"{PROMPT} <lora:learned:0.7>", BOX),
        (f"{PROMPT} <tlora:learned:te=0:unet=1>", {}),
        ("no LoRA at all", {}),
    ):
        [infotext] = json.loads(webui.generate(written, **more)["info"])["infotexts"]
        prompt = paste(tab, infotext)
        tab.wait(f"document.querySelector('#txt2img_prompt textarea').value === {json.dumps(written)}")
        tab.wait(f"document.querySelector('#transfer_lora_txt2img_use input').checked === {json.dumps(bool(more))}")
    # The page makes its pictures in another thread than the API. Size and steps are those that were pasted.
    prompt.fill(f"{PROMPT} <tlora:nobody:1>")
    tab.page.locator("#txt2img_generate").click()
    tab.page.locator("#html_log_txt2img").get_by_text("There is no LoRA named nobody").first.wait_for()
    tab.page.locator("#transfer_lora_txt2img .label-wrap").first.click()
    box.check()
    keep(tab, f"{webui.target.stem}-box")


def test_a_plot_by_mouse(webui: WebUI, window: Window) -> None:
    copy = transferred(webui, window)
    written = f"{PROMPT} <lora:learned:1>"
    [infotext] = json.loads(webui.generate(written)["info"])["infotexts"]
    tab = txt2img(webui, window)
    paste(tab, infotext)
    tab.wait(f"document.querySelector('#txt2img_prompt textarea').value === {json.dumps(written)}")
    tab.wait("document.querySelector('#txt2img_width input[type=number]').value === '64'")

    for field, choice in (
        ("#txt2img_script_container #script_list input", "X/Y/Z plot"),
        ("#script_txt2img_xyz_plot_x_type input", "[Transfer LoRA] use"),
    ):
        tab.page.locator(field).first.wait_for(state="visible")
        pick(tab, tab.page.locator(field).first, choice)
    tab.page.locator("#txt2img_script_container #xyz_grid_fill_x_tool_button").click()
    tokens = tab.page.locator("#txt2img_script_container .token")
    until(lambda: tokens.count() == 3)
    tab.page.locator("#script_txt2img_xyz_plot_include_lone_images input").check()
    tab.page.locator("#txt2img_generate").click()
    images = tab.page.locator("#txt2img_gallery .thumbnail-item img, #txt2img_gallery .thumbnails img")
    until(lambda: images.count() >= 4, every=0.2)
    keep(tab, f"{webui.target.stem}-plot")
    sources = images.evaluate_all("all => all.map(each => each.src)")
    cells = [pixels_of(urllib.request.urlopen(source, timeout=HANG).read()) for source in sources[1:4]]
    for cell, tag in zip(cells, ("", "<lora:learned:1>", f"<lora:{copy.stem}:1>"), strict=True):
        assert np.array_equal(cell, webui.picture(f"{PROMPT} {tag}")), tag


def test_a_restart_in_the_middle_of_a_job_is_told(webui: WebUI, window: Window) -> None:
    names = ["fallen0", "fallen1", "fallen2"]
    for number, name in enumerate(names):
        lora_for(webui.source, webui.loras / f"{name}.safetensors", first=number, every=2)
    tab = webui.tab(window)
    tab.choose(*names, target=webui.target.name)
    tab.begin("transfer")
    tab.wait("status.state === 'running'")
    webui.stop(signal.SIGKILL)
    tab.page.get_by_text("The WebUI does not answer.").first.wait_for()
    webui.start()
    tab.page.get_by_text("The WebUI was started again while a job of this page ran").first.wait_for()
    keep(tab, f"{webui.target.stem}-restarted")
    tab.page.get_by_role("button", name="Reload the page").click()
    tab.page.locator("#tabs > .tab-nav > button").get_by_text("Transfer LoRA", exact=True).click()
    said = tab.ready().until("unfinished")
    print(f"\n{said}")
    assert said.startswith("The WebUI ended during the transfer")
    tab.part("transfer").wait_for(state="visible")
    tab.part("interrupt").wait_for(state="hidden")
    until(lambda: tab.part("adapters").locator(".token").count() == len(names))
    written = list(webui.loras.glob("fallen*_*.safetensors"))
    assert all(read_header(path).tensors for path in written)
    assert len(written) < len(names)
