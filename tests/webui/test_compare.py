"""Compare: one prompt and seed without a LoRA, with it and with the transferred one; in a browser and at the program."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from lib_transfer.errors import CancelledError, RequestError
from lib_transfer.webui.compare.form import Scene, scene, scene_controls
from lib_transfer.webui.compare.kept import KeptComparisons
from lib_transfer.webui.compare.subject import Subject
from lib_transfer.webui.compare.work import CompareJob, Comparison
from lib_transfer.webui.hosts.program import Program as Host
from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab
from tests.webui.programs import Program
from tests.webui.test_limits import keep


def compare(tab: Tab, prompt: str, **numbers: int) -> None:
    """Open the panel, fill it in and press the button."""
    tab.part("comparison").locator(".label-wrap").click()
    tab.part("prompt").locator("textarea").fill(prompt)
    for name, value in numbers.items():
        field = tab.part(name).locator("input[type=number]")
        field.fill(str(value))
        field.blur()
    tab.begin("compare")


def titles(tab: Tab) -> list[str]:
    """What stands below the pictures, from left to right."""
    texts = tab.part("pictures").locator("figcaption").all_inner_texts()
    return [text.split("\n")[0] for text in texts]


def test_the_pictures_differ_in_the_lora_alone(tab: Tab, server: Server) -> None:
    models.lora(server.models, "compared", seed=20)
    tab.press("refresh")
    before, drawn = server.files(), len(server.drawn)
    tab.choose("compared", target=models.TUNED)
    compare(tab, "a cat", seed=7, width=64, height=64)
    assert tab.until("done") == "Done: 1 written, 4 pictures."
    [new] = server.files() - before
    copy = Path(new).stem
    said = server.drawn[drawn:]
    # The source is the program's own checkpoint, so that it comes first.
    own, on_target = ["a cat <lora:compared:1>"], ["a cat", "a cat <lora:compared:1>", f"a cat <lora:{copy}:1>"]
    assert [(made[0], made[5]) for made in said] == [
        *((prompt, models.BASE) for prompt in own),
        *((prompt, models.TUNED) for prompt in on_target),
    ]
    assert {tuple(made[1:5]) for made in said} == {("", "Euler", 7, 20)}
    figures = tab.part("pictures").locator("figure")
    assert titles(tab) == [
        "Without compared on tuned",
        "With compared on base, its own checkpoint",
        "With compared as it is on tuned",
        "With compared transferred to tuned",
    ]
    assert figures.locator("img").first.evaluate("picture => picture.naturalWidth") == 64
    boxes = [figures.nth(number).bounding_box() for number in range(4)]
    assert len({box["y"] for box in boxes if box}) == 1  # side by side
    assert figures.nth(3).inner_text().count("differs by") == 2
    # Pictures of two checkpoints are never compared by number.
    assert "differs by" not in figures.nth(1).inner_text()

    # The prompt's own tag keeps its weights; the copy is there already.
    tab.part("prompt").locator("textarea").fill(f"<lora:{copy}:0.4:0.2> a cat <tlora:another:1>")
    tab.begin("compare")
    tab.until("done")
    again = [made[0] for made in server.drawn[drawn + 4 :]]
    assert again == [
        "<lora:compared:0.4:0.2> a cat <lora:another:1>",
        " a cat <lora:another:1>",
        "<lora:compared:0.4:0.2> a cat <lora:another:1>",
        f"<lora:{copy}:0.4:0.2> a cat <lora:another:1>",
    ]


def test_pictures_come_back_with_their_lora(window: Callable[..., Tab], server: Server) -> None:
    """After another job, and in a window that knows nothing of the jobs; with the settings that they were made with."""
    models.lora(server.models, "returning", seed=24)
    models.lora(server.models, "strange", seed=25)
    tab = window(server.url).ready()
    tab.choose("returning", target=models.TUNED)
    compare(tab, "a dog at sea", seed=11, width=64, height=64)
    tab.until("done")
    figures = tab.part("pictures").locator("figure")
    assert figures.locator("img").count() == 4
    drawn = len(server.drawn)
    addresses = [picture.get_attribute("src") for picture in figures.locator("img").all()]
    tab.run("analyse")
    kept = tab.part("kept_pictures").locator("figure img")
    kept.nth(3).wait_for()
    assert [picture.get_attribute("src") for picture in kept.all()] == addresses
    assert figures.count() == 0
    again = window(server.url).ready()
    again.choose("strange", target=models.TUNED)
    assert again.part("kept_pictures").locator("figure").count() == 0
    again.part("adapters").locator(".token-remove, .token [role=button]").first.click()
    again.choose("returning")
    kept = again.part("kept_pictures")
    figures = kept.locator("figure")
    figures.nth(3).locator("img").wait_for()
    assert [picture.get_attribute("src") for picture in figures.locator("img").all()] == addresses
    kept.get_by_text("Seed 11").wait_for()
    kept.locator("summary", has_text="Settings").click()
    kept.get_by_text("Prompt: a dog at sea", exact=True).wait_for()
    kept.get_by_text("Euler, 20 steps, CFG scale 7, 64 x 64").wait_for()
    assert len(server.drawn) == drawn


def test_interrupt_stops_between_pictures(tab: Tab, server: Server) -> None:
    models.lora(server.models, "halted", seed=21)
    tab.press("refresh")
    tab.choose("halted", target=models.TUNED)
    assert tab.run("transfer") == "Done: 1 written."
    drawn = len(server.drawn)
    server.hold.touch()
    compare(tab, "a cat", width=64, height=64)
    tab.part("status").get_by_text("the picture with halted on base").wait_for()
    tab.press("interrupt")
    tab.until("stopped")
    server.hold.unlink()
    tab.run("analyse")
    assert len(server.drawn) == drawn + 1
    assert tab.part("pictures").locator("figure").count() == 0


def test_a_lora_of_the_target_itself_is_compared_with_nothing_but_its_absence(tab: Tab, server: Server) -> None:
    models.lora(server.models, "at-home", seed=22)
    tab.press("refresh")
    tab.choose("at-home", target=models.BASE)
    compare(tab, "a cat", width=64, height=64)
    assert tab.until("done") == "Done: 1 skipped, 2 pictures."
    assert tab.answers() == ["It fits: it was trained on base.safetensors itself, so use it as it is."]
    assert titles(tab) == ["Without at-home on base", "With at-home as it is on base"]
    assert tab.part("overview").locator("code").inner_text() == "<lora:at-home:1>"


TXT2IMG = """values => {
    for (const [name, [kind, value]] of Object.entries(values)) {
        const place = document.createElement("div");
        place.id = "txt2img_" + name;
        const field = document.createElement(kind === "textarea" ? "textarea" : "input");
        if (kind === "number") field.type = "number";
        place.append(field);
        document.body.append(place);
        field.value = value;
    }
    document.querySelector("#transfer_lora_root").dataset.prompt = "yes";
}"""
"""Puts the fields of txt2img on the page, as both WebUIs have them."""


def test_one_click_compares_what_is_shown_with_the_settings_of_txt2img(tab: Tab, server: Server) -> None:
    """Whatever was chosen since; and the pictures can be looked at, with the keyboard too."""
    models.lora(server.models, "clicked", seed=26)
    models.lora(server.models, "chosen-since", seed=27)
    tab.press("refresh")
    before = server.files()
    tab.choose("clicked", target=models.TUNED)
    tab.run("transfer")
    [new] = server.files() - before
    copy = Path(new).stem
    fields = {"prompt": ["textarea", "a dog"], "neg_prompt": ["textarea", "blurry"], "sampling": ["input", "Heun"]}
    fields |= {
        "steps": ["number", "3"],
        "width": ["number", "64"],
        "height": ["number", "64"],
        "seed": ["number", "12"],
    }
    tab.page.evaluate(TXT2IMG, fields)
    tab.choose("chosen-since", target=models.VARIED)
    drawn = len(server.drawn)
    now = tab.part("overview").get_by_role("button", name="Compare pictures now")
    begin_now(tab)
    assert tab.until("done") == "Done: 4 pictures."
    same = ["blurry", "Heun", 12, 3]
    assert server.drawn[drawn:] == [
        ["a dog <lora:clicked:1>", *same, models.BASE],
        ["a dog", *same, models.TUNED],
        ["a dog <lora:clicked:1>", *same, models.TUNED],
        [f"a dog <lora:{copy}:1>", *same, models.TUNED],
    ]
    figures = tab.part("pictures").locator("figure")
    figures.nth(3).wait_for()
    roles = [figure.get_attribute("data-role") for figure in figures.all()]
    assert roles == ["without", "source", "reuse", "transferred"]
    # What is kept of another choice, or of the same, does not take their place.
    tab.choose(target=models.TUNED)
    kept = tab.part("kept_pictures")
    kept.locator("figure").nth(3).wait_for(state="attached")
    assert kept.is_hidden()
    assert figures.count() == 4
    # The result that the button belongs to is still there.
    assert [row[:2] for row in tab.rows()] == [["clicked", "written"]]

    pictures = tab.part("pictures").locator(".transfer-lora-enlarge")
    large = tab.page.locator("dialog.transfer-lora-large")
    pictures.nth(1).focus()
    tab.page.keyboard.press("Enter")
    large.get_by_text("With clicked on base, its own checkpoint").wait_for()
    width = large.locator("img").evaluate("picture => picture.getBoundingClientRect().width")
    assert width > 2 * pictures.nth(1).evaluate("it => it.getBoundingClientRect().width")
    tab.page.keyboard.press("ArrowRight")
    large.get_by_text("With clicked as it is on tuned").wait_for()
    tab.page.keyboard.press("Escape")
    large.wait_for(state="detached")
    tab.wait(
        "document.activeElement === document.querySelectorAll('#transfer_lora_pictures .transfer-lora-enlarge')[1]"
    )
    pictures.nth(3).click()
    large.get_by_text("With clicked transferred to tuned").wait_for()
    large.locator("img").click()
    large.wait_for(state="detached")

    # What txt2img says is not quietly replaced by something else.
    tab.page.evaluate("document.querySelector('#txt2img_steps input').value = 1000")
    now.click()
    assert "The setting steps" in tab.until("refused")
    assert len(server.drawn) == drawn + 4
    assert [row[:2] for row in tab.rows()] == [["clicked", "written"]]


def begin_now(tab: Tab) -> None:
    """Press "Compare pictures now", and wait until its job is there."""
    job = tab.part("job").locator("textarea, input").first
    last = job.input_value()
    tab.part("overview").get_by_role("button", name="Compare pictures now").click()
    tab.wait(f"document.querySelector('#transfer_lora_job textarea, #transfer_lora_job input').value !== {last!r}")


def test_without_the_source_its_picture_is_left_out_and_that_is_said(tab: Tab, server: Server) -> None:
    models.lora(server.models, "homeless", trained_on=None, seed=28)
    tab.press("refresh")
    tab.choose("homeless", target=models.TUNED)
    tab.part("advanced").locator(".label-wrap").click()
    tab.part("method").get_by_text("Reuse (as it is)", exact=True).click()
    compare(tab, "a cat", width=64, height=64)
    assert tab.until("done") == "Done: 1 written, 3 pictures."
    left = tab.part("pictures").locator("figure[data-role=source]")
    assert "is not installed, or not known" in left.inner_text()
    assert left.locator("img").count() == 0
    assert tab.answers() == ["Written as it is: it does what plain reuse does."]


def test_the_settings_of_txt2img_can_be_taken(tab: Tab) -> None:
    tab.part("comparison").locator(".label-wrap").click()
    # A value that is none is left alone.
    fields = {
        "prompt": ["textarea", "a <b>dog</b>"],
        "neg_prompt": ["textarea", "blurry"],
        "sampling": ["input", "Heun"],
    }
    numbers = {"steps": "31", "width": "832", "height": "nonsense", "cfg_scale": "4.5", "seed": "12"}
    tab.page.evaluate(TXT2IMG, {**fields, **{name: ["number", value] for name, value in numbers.items()}})
    tab.part("comparison").get_by_text("Use the settings of txt2img").click()
    tab.wait("document.querySelector('#transfer_lora_prompt textarea').value === 'a <b>dog</b>'")
    values = {
        name: tab.part(name).locator(inner).first.input_value()
        for name, inner in (
            ("negative", "textarea"),
            ("sampler", "input"),
            ("steps", "input[type=number]"),
            ("width", "input[type=number]"),
            ("height", "input[type=number]"),
            ("cfg", "input[type=number]"),
            ("seed", "input[type=number]"),
        )
    }
    assert values == {
        "negative": "blurry",
        "sampler": "Heun",
        "steps": "31",
        "width": "832",
        "height": "512",
        "cfg": "4.5",
        "seed": "12",
    }


def test_pictures_fit_a_narrow_window_and_can_be_read(
    server: Server, window: Callable[..., Tab], tmp_path: Path
) -> None:
    models.lora(server.models, "shown", seed=23)
    tab = window(server.url, width=400).ready()
    tab.choose("shown", target=models.TUNED)
    compare(tab, "a lighthouse in a storm, oil painting", seed=5)
    tab.until("done")
    assert tab.part("pictures").locator("figure").count() == 4
    tab.open_details()
    for width in (400, 1280):
        tab.page.set_viewport_size({"width": width, "height": 900})
        for theme in ("light", "dark"):
            tab.theme(theme)
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
            keep(tab, f"compare-{theme}-{width}")


# What the program is asked for.


@pytest.fixture
def painter(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The generations that the program was given."""
    given: list[Any] = []

    class Processing(SimpleNamespace):
        def close(self) -> None:
            self.closed = True

    def process_images(p: Any) -> SimpleNamespace:
        given.append(p)
        return SimpleNamespace(
            images=[] if program.state.interrupted else [Image.new("RGBA", (p.width, p.height), "red")]
        )

    module = ModuleType("modules.processing")
    vars(module).update(StableDiffusionProcessingTxt2Img=Processing, process_images=process_images)
    monkeypatch.setitem(sys.modules, "modules.processing", module)
    program.add(tmp_path / "first.safetensors")
    return given


SCENE = Scene("a cat", "blurry", "Euler", 9, 5.0, 64, 72, 3, 1.0)


def test_the_program_is_asked_for_a_picture_that_it_does_not_keep(painter: list[Any], tmp_path: Path) -> None:
    host = Host()
    [checkpoint] = host.checkpoints().values()
    assert host.pictures.samplers() == ("Euler",)
    picture = Image.open(io.BytesIO(host.pictures.draw(SCENE, checkpoint)))
    assert (picture.format, picture.size) == ("JPEG", (64, 72))
    [p] = painter
    assert (p.prompt, p.negative_prompt, p.seed, p.sampler_name, p.steps, p.cfg_scale) == (
        "a cat",
        "blurry",
        3,
        "Euler",
        9,
        5.0,
    )
    assert (p.do_not_save_samples, p.do_not_save_grid, p.closed) == (True, True, True)
    assert p.override_settings == {"sd_model_checkpoint": "first.safetensors"}


def test_the_checkpoints_change_as_seldom_as_possible_and_the_selection_stays(
    painter: list[Any], program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a picture fails, and where the person interrupts."""
    program.add(tmp_path / "second.safetensors")
    program.select(program.add(tmp_path / "third.safetensors"))
    before = dict(program.opts.data)
    host = Host()
    listed = {checkpoint.path.name: checkpoint for checkpoint in host.checkpoints().values()}
    target, selected = listed["first.safetensors"], listed["third.safetensors"]
    cat, dog = (
        Subject(name, tmp_path / f"{name}.safetensors", target, None, listed["second.safetensors"])
        for name in ("cat", "dog")
    )

    def run(*subjects: Subject) -> CompareJob:
        job = CompareJob()
        kept = KeptComparisons(host)
        Comparison(SCENE, host, host.pictures, lambda _: subjects, kept)(job)
        return job

    def used() -> list[str]:
        names = [p.override_settings["sd_model_checkpoint"].partition(".")[0] for p in painter]
        painter.clear()
        return names

    # "Without" is the same picture for both.
    run(cat, dog)
    assert used() == ["first"] * 3 + ["second"] * 2
    # What is loaded already comes first.
    run(replace(cat, source=selected))
    assert used() == ["third", "first", "first"]
    assert dict(program.opts.data) == before

    paints = sys.modules["modules.processing"].process_images
    monkeypatch.setattr(sys.modules["modules.processing"], "process_images", lambda p: painter.append(p) or 1 / 0)
    job = run(cat)
    assert all("ZeroDivisionError" in picture.problem for picture in job.pictures)
    assert dict(program.opts.data) == before
    used()

    def interrupted(p: Any) -> Any:
        job.interrupt()
        return paints(p)

    monkeypatch.setattr(sys.modules["modules.processing"], "process_images", interrupted)
    job = CompareJob()
    job.state = "running"
    with pytest.raises(CancelledError):
        Comparison(SCENE, host, host.pictures, lambda _: [cat], KeptComparisons(host))(job)
    assert used() == ["first"]
    assert dict(program.opts.data) == before


def test_without_a_picture_there_is_a_sentence(painter: list[Any], program: Program) -> None:
    [checkpoint] = Host().checkpoints().values()
    program.state.interrupted = True
    with pytest.raises(RequestError, match="interrupted"):
        Host().pictures.draw(SCENE, checkpoint)
    program.infos.clear()
    with pytest.raises(RequestError, match="not in the WebUI's list"):
        Host().pictures.draw(SCENE, checkpoint)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", None),
        ("prompt", "x" * 20_001),
        ("negative", 3),
        ("sampler", "os.system"),
        ("steps", 0),
        ("steps", "many"),
        ("weight", None),
        ("width", 10_000),
        ("seed", 2**40),
    ],
)
def test_values_of_a_scene_are_checked(painter: list[Any], name: str, value: object) -> None:
    values = dict(zip(scene_controls(), ("a cat", "", "Euler", 20, 7, 1, 513, 512, -1), strict=True))
    pictures = Host().pictures
    good = scene(values, pictures)
    assert (good.width, good.height) == (512, 512)
    assert 0 <= good.seeded().seed < 2**32
    values[name] = value
    with pytest.raises(RequestError):
        scene(values, pictures)
