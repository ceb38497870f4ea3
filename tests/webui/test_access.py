"""Who can use the page: axe-core's rules, the keyboard alone, and how many clicks the first transfer takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.__main__ import AXE
from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab
from tests.webui.test_batch import Batch

PLACE = "access/"


@pytest.fixture
def loras(server: Server) -> Iterator[Path]:
    """Three LoRAs in a folder of the common server: one with a preview, one of the target itself, one that is broken."""
    place = server.loras / PLACE
    sound = models.lora(server.models, f"{PLACE}first")
    Image.new("RGB", (300, 500), (90, 120, 200)).save(sound.with_suffix(".preview.png"))
    models.lora(server.models, f"{PLACE}second", trained_on=models.TUNED, seed=1)
    (place / "third.safetensors").write_bytes(b"<html>")
    yield place
    server.hold.unlink(missing_ok=True)
    shutil.rmtree(place)


def faults(tab: Tab, state: str) -> list[str]:
    """The serious and critical faults that axe-core finds in our part of the page, in both themes, wide and narrow."""
    assert AXE.exists(), "axe-core is missing: python3 -m tests a1111 (or forge) fetches it"
    if not tab.page.evaluate("() => !!window.axe"):
        tab.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = []
    for width in (1280, 400):
        tab.page.set_viewport_size({"width": width, "height": 900})
        for theme in ("dark", "light"):
            tab.theme(theme)
            run = "() => axe.run('#transfer_lora_root', {resultTypes: ['violations']})"
            for fault in tab.page.evaluate(run)["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    found += [f"{state}, {width}, {theme}: {fault['id']} {node['html']}" for node in fault["nodes"]]
    tab.page.set_viewport_size({"width": 1280, "height": 900})
    return found


# Everything in our part that a mouse can work on. Of radio buttons that belong together the keyboard reaches one.
WORKED = """() => Array.from(document.querySelectorAll(
    '#transfer_lora_root :is(button, summary, a[href], input, textarea, .label-wrap, .transfer-lora-scroll)'
)).filter(it => it.checkVisibility({visibilityProperty: true}) && it.getClientRects().length && !it.disabled)
.filter(it => !(it.type === 'radio' && !it.checked) && it.tabIndex >= -1)"""


def unreached(tab: Tab) -> list[str]:
    """What the Tab key does not reach, and what of ours does not show that it has the focus."""
    tab.page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); window.reached = new Set(); }")
    tab.page.locator("#setting_sd_model_checkpoint input").first.focus()
    step = """() => {
        const it = document.activeElement;
        const known = reached.has(it) || it === document.body;
        reached.add(it);
        const ours = it.matches('#transfer_lora_root :is(button, summary, a, .label-wrap, .transfer-lora-scroll)');
        const style = getComputedStyle(it);
        const shown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
        return {known, unseen: ours && !shown ? it.outerHTML.slice(0, 200) : ''};
    }"""
    problems, known = [], 0
    # A list that closes loses the focus for a moment; only at the end is everything known for long.
    while known < 5:
        tab.page.keyboard.press("Tab")
        at = tab.page.evaluate(step)
        problems += [f"unseen: {at['unseen']}"] if at["unseen"] else []
        known = known + 1 if at["known"] else 0
    missed = f"() => ({WORKED})().filter(it => !reached.has(it)).map(it => it.outerHTML.slice(0, 200))"
    return problems + [f"unreached: {each}" for each in tab.page.evaluate(missed)]


def unfold(tab: Tab, within: str = "#transfer_lora_root") -> None:
    """Unfold everything with the keyboard."""
    for head in tab.page.locator(f"{within} .label-wrap, {within} summary").all():
        if head.is_visible():
            head.focus()
            tab.page.keyboard.press("Enter")


def test_axe_and_the_keyboard_find_no_fault(window: Callable[..., Tab], server: Server, loras: Path) -> None:
    tab = window(server.url).ready()
    found = faults(tab, "idle")
    tab.choose(f"{PLACE}first", f"{PLACE}third", target=models.TUNED)
    picture = tab.part("chosen").locator("img")
    assert picture.evaluate_all("all => all.map(each => each.naturalHeight)") == [96]
    found += faults(tab, "chosen")
    tab.run("transfer")
    unfold(tab)
    tab.part("threshold").wait_for(state="visible")
    tab.part("details").locator("#transfer_lora_modules").wait_for(state="visible")
    found += faults(tab, "transferred") + unreached(tab)

    view = Batch(tab)
    tab.pick("batch_folder", PLACE)
    view.run("run")
    name = tab.part("batch_rows").locator(f'[data-transfer-lora=details][data-name="{PLACE}second"]')
    name.focus()
    tab.page.keyboard.press("Enter")
    tab.part("batch_details").locator("[data-details]").wait_for()
    found += faults(tab, "batch") + unreached(tab)
    assert not found, "\n".join(found)


def focus(page: Any) -> str:
    """The action and the name of what has the focus."""
    return page.evaluate("() => Object.values(document.activeElement.dataset).join(' ')")


def test_focus_order_folds_and_scrolling_outlast_an_update(
    window: Callable[..., Tab], server: Server, loras: Path
) -> None:
    for number in range(12):
        models.lora(server.models, f"{PLACE}more/{number:02}", seed=number)
    tab = window(server.url).ready()
    view, page = Batch(tab), tab.page
    tab.pick("batch_folder", f"{PLACE}more/")
    tab.pick("target", models.TUNED)
    server.hold.touch()
    # The button that is pressed gives its place, and its focus, to the one that stops the job.
    view.part("run").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#transfer_lora_batch_interrupt:focus, #transfer_lora_batch_interrupt :focus").wait_for()
    heading = view.part("rows").locator('[data-transfer-lora=sort][data-title="LoRA"]')
    heading.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert focus(page) == "sort LoRA"
    view.seen(f"first.cells[0].innerText === '{PLACE}more/11'")
    assert view.part("rows").locator("th").first.get_attribute("aria-sort") == "descending"
    # One is left out: its button goes, and the focus stays in the row.
    view.part("rows").locator(f'[data-transfer-lora=skip][data-name="{PLACE}more/10"]').focus()
    page.keyboard.press("Enter")
    view.part("rows").get_by_text("will be left out").wait_for()
    page.wait_for_function(f"() => document.activeElement.dataset.name === '{PLACE}more/10'")
    view.part("rows").locator(f'[data-transfer-lora=details][data-name="{PLACE}more/03"]').focus()
    scroller = view.part("rows").locator(".transfer-lora-scroll")
    scroller.evaluate("it => { it.scrollTop = 15; it.scrollLeft = 30; }")
    page.wait_for_function(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
    )
    server.hold.unlink()
    view.until("done")
    view.seen("first.dataset.status === 'written'")
    assert focus(page) == f"details {PLACE}more/03"
    assert [name[-2:] for name in view.rows()] == [f"{number:02}" for number in reversed(range(12))]
    assert view.part("rows").locator("th").first.get_attribute("aria-sort") == "descending"
    assert scroller.evaluate("it => [it.scrollTop, it.scrollLeft]") == [15, 30]

    # Details open below the table and take the focus; closed, they give it back.
    page.keyboard.press("Enter")
    details = view.part("details").locator(f'[data-details="{PLACE}more/03"]')
    details.wait_for()
    page.wait_for_function(f"() => document.activeElement.dataset.details === '{PLACE}more/03'")
    assert "24 of 24 modules" in details.inner_text()
    details.locator("summary", has_text="modules").focus()
    page.keyboard.press("Enter")
    assert details.locator("#transfer_lora_modules tbody tr").count() == models.MODULES
    # What is unfolded in one LoRA's details is so in the next one's.
    view.part("rows").locator(f'[data-transfer-lora=details][data-name="{PLACE}more/04"]').click()
    view.part("details").locator(f'[data-details="{PLACE}more/04"] #transfer_lora_modules').wait_for(state="visible")
    view.part("details").get_by_text("Close", exact=True).focus()
    page.keyboard.press("Enter")
    view.part("details").locator("[data-details]").wait_for(state="detached")
    assert focus(page) == f"details {PLACE}more/04"
    # From there to the same LoRA in the other view.
    page.keyboard.press("Enter")
    view.part("details").get_by_text("Choose it under Transfer").click()
    tab.part("adapters").locator(".token", has_text=f"{PLACE}more/04").wait_for(state="visible")


def test_the_first_transfer_takes_four_clicks_and_six_with_another_target(
    window: Callable[..., Tab], server: Server, loras: Path
) -> None:
    # More than the list shows at a time, so that it covers what is below.
    for number in range(30):
        models.lora(server.models, f"{PLACE}many/{number:02}", trained_on=models.TUNED, seed=number)
    models.lora(server.models, f"{PLACE}many/00", trained_on=models.VARIED)

    def opened() -> Tab:
        tab = window(server.url)
        tab.page.evaluate("""() => {
            window.clicks = 0;
            document.addEventListener('pointerdown', event => { clicks += event.isTrusted; }, true);
        }""")
        tab.page.locator("#tabs > .tab-nav button").first.click()
        tab.ready().part("adapters").locator("input").first.click()
        # Facts stand behind the name once its file has been looked at.
        named = ", ".join(f'[aria-label{how}{PLACE}many/00{end}"]' for how, end in (('="', ""), ('^="', "  [")))
        tab.part("adapters").locator(f"[data-testid=dropdown-option]:is({named})").click()
        return tab

    def finished(tab: Tab, target: str) -> int:
        tab.part("cost").get_by_text("About").wait_for()
        tab.part("transfer").click()
        assert tab.until("done") == "Done: 1 written."
        assert list((server.loras / PLACE / "many").glob(f"00_{target}_*.safetensors"))
        return tab.page.evaluate("() => clicks")

    assert finished(opened(), "base") == 4

    tab = opened()
    # The list covers the target, until the pointer leaves it.
    tab.part("results").hover(position={"x": 20, "y": 5})
    tab.part("adapters").locator("[data-testid=dropdown-option]").first.wait_for(state="detached")
    tab.part("target").locator("input").first.click()
    tab.page.locator(f'#transfer_lora_target [data-testid=dropdown-option][aria-label="{models.TUNED}"]').click()
    tab.page.locator(f'#transfer_lora_target_line [data-target="{models.TUNED}"]').first.wait_for()
    assert finished(tab, "tuned") == 6
