"""Waiting is never blank, and nothing is lost: what is read is shown, and a reload and a restart bring everything back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lib_transfer.webui.shell.record import JobRecords, Unfinished
from tests.waiting import HANG, until
from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab

JOB = "task(transfer-lora-0123456789abcdef)"


@pytest.fixture
def own(serve: Callable[..., Server], checkpoints: Path, tmp_path: Path) -> Server:
    """A server that can be killed, which knows no file yet."""
    (tmp_path / "Lora").mkdir()
    (tmp_path / "Stable-diffusion").symlink_to(checkpoints)
    for number, name in enumerate(("one", "two")):
        models.lora(tmp_path, name, seed=number)
    return serve(tmp_path)


def test_what_is_read_and_what_is_left_of_a_job_is_shown(
    own: Server, serve: Callable[..., Server], window: Callable[..., Tab]
) -> None:
    tab = window(own.url).ready().choose("one", "two", target=models.TUNED, source=models.BASE)

    # Hashing: the bytes and a bar, and it can be stopped.
    reading = own.hold.with_suffix(".reading")
    reading.touch()
    tab.begin("transfer")
    status = tab.part("status")
    found = re.compile(
        r"1 of 2: Reading one\.safetensors, base\.safetensors and tuned\.safetensors, 0\.\d of \d+\.\d MB"
    )
    status.get_by_text(found).wait_for()
    assert "left" not in status.inner_text()
    width = "parseFloat(document.querySelector('#transfer_lora_status .transfer-lora-bar > div').style.width)"
    tab.wait(f"{width} > 0")
    assert tab.page.evaluate(width) < 50
    tab.press("interrupt")
    assert tab.until("stopped").startswith("Stopped. 0 LoRAs had been written")
    reading.unlink()

    # A reload: the choice, and the results of the window's last job.
    tab.part("advanced").locator(".label-wrap").click()
    tab.part("method").get_by_text("Reuse (as it is)").click()
    tab.run("analyse")
    tab.page.reload(wait_until="domcontentloaded")
    tab.ready()
    assert tab.until("done") == "Done: 2 analysed, nothing written."
    tab.results.nth(1).wait_for()
    assert [row[0] for row in tab.rows()] == ["one", "two"]
    chosen = tab.part("adapters").locator(".token > span")
    until(lambda: [name.strip().partition(" ")[0] for name in chosen.all_inner_texts()] == ["one", "two"])
    for name, value in (("target", models.TUNED), ("source", models.BASE)):
        until(lambda name=name, value=value: tab.part(name).locator("input").first.input_value() == value)
    tab.part("advanced").locator(".label-wrap").click()
    assert (
        tab.part("method").locator("input:checked").locator("xpath=ancestor::label").inner_text().strip()
        == "Reuse (as it is)"
    )

    # The server dies in the middle of a job, after the first LoRA.
    own.hold.with_suffix(".written").touch()
    tab.begin("transfer")
    tab.wait("status.written === '1'")
    tab.page.locator("#transfer_lora_interrupt").wait_for()
    own.process.kill()
    own.process.wait(HANG)
    tab.page.get_by_text("The WebUI does not answer.").wait_for()
    status.locator(".transfer-lora-bar").wait_for(state="hidden")

    # Once it is there again the page says so by itself, and after a reload what became of the job.
    for suffix in ("", ".written"):
        own.hold.with_suffix(suffix).unlink()
    own.hold.with_suffix(".growth").touch()
    again = serve(own.models, own)
    tab.page.get_by_text("The WebUI was started again while a job of this page ran").wait_for()
    for name in ("interrupt", "skip"):
        tab.part(name).wait_for(state="hidden")
    lost = tab.part("job").locator("textarea, input").first.input_value()
    tab.page.get_by_role("button", name="Reload the page").click()
    [written] = again.loras.glob("one_tuned_reuse_*.safetensors")
    said = tab.ready().until("unfinished")
    assert said == (
        f"The WebUI ended during the transfer. 1 of 2 LoRAs had been written, whole: {written.stem}. "
        "Press Transfer again for the rest; what is there is not made anew."
    )
    chosen.nth(1).wait_for()
    tab.part("interrupt").wait_for(state="hidden")
    said = tab.run("transfer")
    assert said.startswith("Done: 1 there already, 1 written.")
    until(lambda: [file.stem in lost for file in (again.hold.parent / "cache/jobs").iterdir()] == [True])

    # The growth of the cache is told with a way to its limit.
    tab.page.get_by_role("button", name="Open this setting").click()
    tab.page.locator("#setting_transfer_lora_cache_size input").first.wait_for()
    tab.page.wait_for_function("document.activeElement?.closest('#setting_transfer_lora_cache_size') !== null")


def records(folder: Path) -> JobRecords:
    return JobRecords(lambda: folder)


def test_a_record_holds_what_is_in_place_and_goes_with_the_job(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    first = records(folder)
    assert first.find(JOB) is None
    first.begin(JOB, "transfer", ("one", "two"))
    assert records(folder).find(JOB) == Unfinished("transfer", ("one", "two"), ())
    (tmp_path / "one.safetensors").touch()
    for name in ("one", "gone"):
        first.wrote(JOB, tmp_path / f"{name}.safetensors")
    assert records(folder).find(JOB) == Unfinished("transfer", ("one", "two"), (tmp_path / "one.safetensors",))
    # Killed in mid-line.
    [file] = folder.iterdir()
    with file.open("a") as stream:
        stream.write('"/half/of/a')
    assert len(records(folder).find(JOB).written) == 1  # type: ignore[union-attr]
    first.end(JOB)
    assert list(folder.iterdir()) == []
    assert first.find(JOB) is None


@pytest.mark.parametrize("job_id", ["", None, [JOB], "../../etc/passwd", f"{JOB}\n", "task(transfer-lora-..)"])
def test_what_is_no_job_of_ours_leads_to_no_file(tmp_path: Path, job_id: object) -> None:
    made = records(tmp_path)
    made.begin(str(job_id), "transfer", ())
    assert list(tmp_path.iterdir()) == []
    assert made.find(job_id) is None


@pytest.mark.parametrize(
    "content", ["", "{}\n", "[]\n", '{"kind": "transfer"', '{"kind": "x", "names": []}\n', "[" * 9999 + "\n", "\0\n"]
)
def test_a_damaged_record_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "0123456789abcdef.job").write_text(content)
    assert records(tmp_path).find(JOB) is None


def test_a_record_that_cannot_be_written_stops_no_job(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("no folder")
    made = records(tmp_path / "jobs")
    made.begin(JOB, "transfer", ("one",))
    made.wrote(JOB, tmp_path / "one.safetensors")
    made.end(JOB)


@pytest.mark.parametrize(
    ("kind", "names", "written", "sentence"),
    [
        (
            "analyse",
            ("a",),
            0,
            "The WebUI ended during the analysis. There is no result; nothing was lost. Press Analyse",
        ),
        (
            "transfer",
            ("a",),
            0,
            "The WebUI ended during the transfer, before a LoRA was written. Press Transfer to start",
        ),
        (
            "batch",
            (),
            7,
            "The WebUI ended during the batch. 7 LoRAs had been written, whole: 0, 1, 2, 3, 4 and 2 more. ",
        ),
        ("compare", ("a", "b"), 1, "The WebUI ended during the comparison. 1 of 2 LoRAs had been written, whole: 0. "),
    ],
)
def test_how_a_job_ended_is_a_sentence(kind: str, names: tuple[str, ...], written: int, sentence: str) -> None:
    paths = tuple(Path(f"/x/{number}.safetensors") for number in range(written))
    assert Unfinished(kind, names, paths).sentence.startswith(sentence)
