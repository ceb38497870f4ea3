"""The results of a job as a whole: nothing is said to be done before they are there, and what matters comes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab
from tests.webui.test_limits import keep

WATCH = """() => {
    const page = name => document.querySelector("#transfer_lora_" + name);
    const shown = {
        "Done: 1 written.": () => page("overview").querySelector("h4")?.innerText === "together",
        "Done: 4 pictures.": () => page("pictures").querySelectorAll("figure").length === 4,
        "Done: verified": () => page("verified").querySelector("#transfer_lora_verdicts"),
    };
    const table = () => page("batch_rows").querySelector("tbody tr") &&
        !page("batch_rows").querySelector("tr[data-status='to convert']");
    window.seen = [];
    window.early = [];
    const said = (words, there) => {
        if (!window.seen.includes(words)) window.seen.push(words);
        if (!there) window.early.push(words);
    };
    const look = () => {
        const [one, batch] = ["status", "batch_status"].map(name => page(name).textContent);
        for (const words of Object.keys(shown).filter(words => one.includes(words))) said(words, shown[words]());
        if (batch.includes("Done:")) said("batch", table());
    };
    const all = {childList: true, subtree: true, characterData: true};
    new MutationObserver(look).observe(document.querySelector("#transfer_lora_root"), all);
}"""
"""Looks at every change of the page: what is said to be done, and which of it was said before its results were there."""


def test_no_job_is_said_to_be_done_before_its_results_are_there(
    window: Callable[..., Tab], serve: Callable[[Path], Server], checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "Stable-diffusion").mkdir()
    for name in (models.BASE, models.TUNED):
        (tmp_path / "Stable-diffusion" / name).hardlink_to(checkpoints / name)
    models.lora(tmp_path, "together", seed=40)
    models.lora(tmp_path, "another", seed=41)
    tab = window(serve(tmp_path).url).ready()
    tab.choose("together", target=models.TUNED)
    tab.page.evaluate(WATCH)
    tab.run("transfer")
    for name, value in (("width", 64), ("height", 64)):
        tab.page.locator(f"#transfer_lora_{name} input").evaluate(
            "(field, value) => { field.value = value; field.dispatchEvent(new Event('input', {bubbles: true})); }",
            value,
        )
    tab.part("overview").get_by_role("button", name="Compare pictures now").click()
    tab.part("status").get_by_text("Done: 4 pictures.").wait_for()
    tab.part("verification").locator(".label-wrap").click()
    tab.part("verify_inputs").locator("input").fill("1")
    tab.part("verify_inputs").locator("input").blur()
    tab.press("verify")
    tab.part("status").get_by_text("Done: verified").wait_for()

    # From top to bottom: the answer, its tag and buttons, the pictures, the verification, and folded, everything else.
    order = [
        ".transfer-lora-sentence",
        ".transfer-lora-tag",
        ".transfer-lora-comparison",
        "#transfer_lora_verification",
    ]
    order += ["#transfer_lora_verdicts", ".transfer-lora-details"]
    boxes = [tab.page.locator(f"#transfer_lora_results {part}").first.bounding_box() for part in order]
    places = [box["y"] for box in boxes if box]
    assert len(places) == len(order) and places == sorted(places)
    keep(tab, "result")

    tab.page.locator("#transfer_lora_views > .tab-nav button").nth(1).click()
    tab.press("batch_run")
    tab.part("batch_status").get_by_text("Done:").wait_for()
    seen = tab.page.evaluate("window.seen")
    assert seen == ["Done: 1 written.", "Done: 4 pictures.", "Done: verified", "batch"]
    assert tab.page.evaluate("window.early") == []
