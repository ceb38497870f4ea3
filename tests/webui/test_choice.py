"""What the tab says before the click: the target that holds, what cannot be transferred, what it takes; and the cache after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_transfer.webui.batch.form import EVERYWHERE, batch_order
from lib_transfer.webui.batch.job import BatchJob
from lib_transfer.webui.batch.work import BatchWork
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.shell.events import TabEvents
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.shell.status import status
from lib_transfer.webui.transfer import growth
from lib_transfer.webui.transfer.events import TransferEvents
from lib_transfer.webui.transfer.form import AUTOMATIC, order, order_controls
from lib_transfer.webui.transfer.work import Work, settings_for
from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab

# The list of checkpoints in each program's own bar: its id, and its classes (Forge's has no id).
BARS = {
    "a1111": ("setting_sd_model_checkpoint", ""),
    "forge": ("", "model_selection"),
    "neo": ("setting_sd_model_checkpoint", "model_selection"),
}
LINE = "#transfer_lora_target_line [data-target]"


def switch(tab: Tab, checkpoint: str) -> None:
    """Choose a checkpoint in the program's own bar."""
    tab.page.locator("[data-bar] input").first.click()
    tab.page.locator(f'[data-bar] [data-testid=dropdown-option][aria-label="{checkpoint}"]').click()
    tab.page.locator("[data-bar] input").first.blur()


def shows(tab: Tab, checkpoint: str) -> None:
    tab.page.locator(f'{LINE}[data-target="{checkpoint}"]').first.wait_for()


@pytest.mark.parametrize("bar", BARS)
def test_the_target_follows_the_bar_of_every_program(tab: Tab, bar: str) -> None:
    # Before our JavaScript has seen it.
    script = """([id, classes]) => new MutationObserver((_, observer) => {
        const list = document.querySelector("#setting_sd_model_checkpoint");
        if (!list) return;
        observer.disconnect();
        list.dataset.bar = "yes";
        id ? list.id = id : list.removeAttribute("id");
        list.classList.add(...classes.split(" ").filter(Boolean));
    }).observe(document, {childList: true, subtree: true})"""
    tab.page.add_init_script(f"({script})({json.dumps(BARS[bar])})")
    tab.page.reload(wait_until="domcontentloaded")
    tab.ready()
    assert tab.page.locator("#setting_sd_model_checkpoint").count() == (0 if bar == "forge" else 1)
    shows(tab, models.BASE)
    switch(tab, models.TUNED)
    shows(tab, models.TUNED)
    switch(tab, models.BASE)
    shows(tab, models.BASE)


def test_the_target_is_asked_for_when_the_tab_is_seen_again(tab: Tab, window: Any, server: Server) -> None:
    shows(tab, models.BASE)
    tab.page.locator("#tabs > .tab-nav > button", has_text="Settings").click()
    other = window(server.url).ready()
    other.page.evaluate("document.querySelector('#setting_sd_model_checkpoint').dataset.bar = 'yes'")
    switch(other, models.VARIED)
    shows(other, models.VARIED)
    tab.page.locator("#tabs > .tab-nav > button", has_text="Transfer LoRA").click()
    shows(tab, models.VARIED)
    switch(other, models.BASE)
    shows(other, models.BASE)


@pytest.mark.parametrize("late", ["refresh", "look"])
def test_an_answer_that_comes_late_leaves_no_old_target(tab: Tab, late: str) -> None:
    tab.pick("target", models.TUNED)
    shows(tab, models.TUNED)
    held: list[Any] = []
    taken: list[Any] = []

    def hold(route: Any, request: Any) -> None:
        # Another request may come while this one is being fetched.
        if not taken and models.TUNED in (request.post_data or ""):
            taken.append(route)
            # The server has answered; the answer is on its way.
            held.append((route, route.fetch()))
        else:
            route.fallback()

    tab.page.route("**/run/predict*", hold)
    tab.page.evaluate("name => document.querySelector(`#transfer_lora_${name}`).click()", late)
    while not held:
        tab.page.wait_for_timeout(50)
    tab.pick("target", models.VARIED)
    if late == "refresh":
        # Of one and the same event, gradio has one question under way at a time.
        shows(tab, models.VARIED)
    [(route, response)] = held
    route.fulfill(response=response)
    tab.page.wait_for_timeout(300)
    shows(tab, models.VARIED)
    tab.page.wait_for_timeout(1000)
    assert tab.page.locator(LINE).first.get_attribute("data-target") == models.VARIED
    assert tab.part("target").locator("input").first.input_value() == models.VARIED


def test_what_was_trained_on_the_target_says_so_and_transfer_is_off(tab: Tab, server: Server) -> None:
    models.lora(server.models, "at-home", seed=40)
    tab.press("refresh")
    tab.choose("at-home", target=models.BASE)
    tab.part("chosen").get_by_text("the target itself: nothing to transfer").wait_for()
    tab.part("cost").get_by_text("This LoRA was trained on the target itself").wait_for()
    assert tab.part("transfer").is_disabled()
    tab.pick("target", models.TUNED)
    tab.part("cost").get_by_text("at most").wait_for()
    assert tab.part("transfer").is_enabled()


# Without a browser.


@pytest.fixture
def events(checkpoints: Path, tmp_path: Path) -> TransferEvents:
    """The events of a tab on a folder of its own."""
    folder = tmp_path / "models"
    (folder / "Lora").mkdir(parents=True)
    (folder / "Stable-diffusion").symlink_to(checkpoints)
    return TransferEvents(TabEvents(Standalone(folder, tmp_path / "cache")))


def values(events: TransferEvents, *adapters: str, target: str = models.TUNED, **more: Any) -> dict[str, Any]:
    method = "Rotation"
    given = dict.fromkeys(order_controls())
    chosen = {"adapters": list(adapters), "target": target, "source": AUTOMATIC, "method": method, "question": "7"}
    return {**given, **chosen, **more}


def folder_of(events: TransferEvents) -> Path:
    return events.host.adapter_folders()[0].parent


def test_all_that_cannot_be_transferred_is_one_list_with_one_explanation(events: TransferEvents) -> None:
    folder = folder_of(events)
    sound = models.lora(folder, "sound")
    (folder / "Lora" / "cut-off.safetensors").write_bytes(sound.read_bytes()[:2000])
    models.lora(folder, "orphan", trained_on="gone.safetensors")
    models.lora(folder, "silent", trained_on=None)
    hidream = {
        f"diffusion_model.double_stream_blocks.{block}.block.{role}.lora_{way}.weight": torch.ones(shape)
        for block in range(16)
        for role in ("attn1.to_q", "attn1.to_k", "attn1.to_v")
        for way, shape in (("A", (4, 16)), ("B", (16, 4)))
    }
    save_file(hidream, folder / "Lora" / "hidream.safetensors")
    save_file(
        {"nobody.knows.lora_up.weight": torch.ones(8, 4), "nobody.knows.lora_down.weight": torch.ones(4, 8)},
        folder / "Lora" / "strange.safetensors",
    )
    bad = ("cut-off", "orphan", "silent", "hidream", "strange")
    said = events.looked(values(events, "sound", *bad))
    chosen = str(said["chosen"])
    assert chosen.count('role="alert"') == 1
    assert "5 of the 6 chosen LoRAs cannot be transferred as things are." in chosen
    alert = chosen[chosen.index('role="alert"') :]
    assert alert.count("<li>") == 5
    assert all(f"<b>{name}</b>: " in alert for name in bad)
    assert alert.count("Where the source was not found, pick one under Source checkpoint.") == 1
    assert "It asks for gone.safetensors" in alert
    assert "does not say what it was trained on" in alert
    assert "not supported" in alert
    assert alert.count("goes on with the others") == 1
    assert "1 of the 6 LoRAs: About " in said["cost"]
    assert said["transfer"]["interactive"] is True
    without = events.looked(values(events, *bad))
    assert without["transfer"]["interactive"] is False
    assert "what keeps each LoRA from it is said above" in without["cost"]
    assert without["output"] == ""


def test_nothing_chosen_leaves_transfer_on_and_numbers_both_answers(events: TransferEvents) -> None:
    said = events.looked(values(events))
    assert said["transfer"]["interactive"] is True
    assert said["cost"] == ""
    assert all('data-question="7"' in said[name] for name in ("target_line", "chosen"))


@pytest.mark.parametrize("method", ["Rotation", "Reuse (as it is)"])
def test_all_trained_on_the_target_is_said_once(events: TransferEvents, method: str) -> None:
    for name in ("one", "two"):
        models.lora(folder_of(events), name)
    said = events.looked(values(events, "one", "two", target=models.BASE, method=method))
    assert "all 2 LoRAs were trained on the target itself" in said["cost"]
    assert said["transfer"]["interactive"] is False


def test_a_wrong_setting_is_said_beside_the_button(events: TransferEvents) -> None:
    models.lora(folder_of(events), "one")
    assert "The setting rank cannot be" in events.looked(values(events, "one", rank="many"))["cost"]


def test_a_target_that_cannot_be_used_still_shows_the_loras(events: TransferEvents, tmp_path: Path) -> None:
    models.lora(folder_of(events), "one")
    said = events.looked(values(events, "one", target="gone.safetensors"))
    assert "is not in the list any more" in said["target_line"]
    assert "one" in said["chosen"]
    assert said["transfer"]["interactive"] is True


def test_more_disk_is_said_for_a_higher_rank(events: TransferEvents) -> None:
    models.lora(folder_of(events), "one")
    usual, high = (str(events.looked(values(events, "one", rank=rank))["cost"]) for rank in (None, "96"))

    def megabytes(text: str) -> float:
        return float(text.split("at most ")[1].split(" MB", maxsplit=1)[0])

    assert megabytes(high) > 4 * megabytes(usual)


# The cache.


def test_growth_of_the_cache_is_told_after_a_transfer_and_a_batch(
    events: TransferEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "NOTICEABLE", 1)
    models.lora(folder_of(events), "one")
    host, index = events.host, events.tab.index
    job = Job("transfer", ("one",))
    Work(order(values(events, "one"), host), host, index)(job)
    [remark] = job.remarks
    assert remark.startswith("The cache grew by ")
    assert "it may take 21.5 GB" in remark
    assert "the setting &#34;Cache size&#34; under Settings, Transfer LoRA" in remark
    assert 'data-setting="cache_size"' in remark
    job.finish("done")
    assert "The cache grew by" in status(job)

    # The pair is known now: nothing more is kept, and nothing is said.
    again = Job("analyse", ("one",))
    Work(order(values(events, "one"), host), host, index)(again)
    assert again.remarks == []

    asked = batch_order(
        values(
            events,
            target=models.VARIED,
            batch_folder=EVERYWHERE,
            batch_deeper=True,
            batch_base=None,
            batch_algorithm=None,
            batch_name="",
            batch_loadable=False,
        ),
        host,
    )
    batch = BatchJob(converts=True)
    BatchWork(asked, settings_for(asked.order, host, across_families=False), host, index)(batch)
    assert len(batch.remarks) == 1
    batch.finish("done")
    assert "The cache grew by" in status(batch)


def test_little_growth_is_not_worth_a_sentence(events: TransferEvents) -> None:
    models.lora(folder_of(events), "one")
    job = Job("transfer", ("one",))
    Work(order(values(events, "one"), events.host), events.host, events.tab.index)(job)
    assert job.remarks == []
    assert growth.sentence(1_700_000_000, 1_700_000_000, 20 * 10**9).startswith(
        "The cache grew by 1.7 GB to 1.7 GB; it may take 20.0 GB."
    )
