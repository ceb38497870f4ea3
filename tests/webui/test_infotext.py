"""What a picture's parameters say, what they do without the extension, and what they put back into the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lib_transfer.formats.identity import file_sha256
from lib_transfer.webui.prompt.infotext import BOX, restore
from tests.webui import models
from tests.webui.generations import Generations, parameters


@pytest.fixture
def paste(made: Generations) -> Callable[[str], dict[str, str]]:
    """The program's paste button: parameters from a text, as they go into the page."""

    def pasted(infotext: str) -> dict[str, str]:
        found = parameters(infotext)
        made.program.callbacks["infotext_pasted"](infotext, found)
        return found

    return pasted


def test_a_picture_says_method_and_target_of_each_lora(made: Generations) -> None:
    models.lora(made.models, "a, dog; (b)", seed=2)
    models.lora(made.models, "silent", trained_on=None)
    p = made.generate("<tlora:cat:0.8> <tlora:a, dog; (b):1> <tlora:silent:1> <tlora:cat:0.2>")
    target = file_sha256(made.path(models.TUNED))[:10]
    said = f"cat -> rotation, {target}; a, dog; (b) -> rotation, {target}; silent -> original"
    assert parameters(p.infotexts[0])["Transfer LoRA"] == said


@pytest.mark.parametrize(
    ("prompt", "box"),
    [
        ("a cat, <tlora:cat:0.8:unet=0.5>, (sitting:1.2)", False),
        ("a cat <lora:cat:0.8>", True),
        ("<lyco:cat:0.8> <tlora:a, dog; (b)> <lora:silent:1>", True),
        ("<tlora:silent:0.1>", False),
        ("<lora:cat:1> <tlora:a, dog; (b):1>", False),
        ("nothing but words", True),
        ("<lora:cat:1>", False),
    ],
)
def test_parameters_sent_back_restore_tag_and_box(
    made: Generations, paste: Callable[[str], dict[str, str]], prompt: str, box: bool
) -> None:
    models.lora(made.models, "a, dog; (b)", seed=2)
    models.lora(made.models, "silent", trained_on=None)
    p = made.generate(prompt, box)
    found = paste(p.infotexts[0])
    assert found["Prompt"] == prompt
    assert found[BOX] == str(box)
    # And the same picture comes of it, with a copy that is there already.
    before, copies = made.passes[-1], made.copies()
    made.generate(found["Prompt"], found[BOX] == "True")
    assert (made.passes[-1], made.copies()) == (before, copies)


def test_the_parameters_work_without_the_extension(made: Generations) -> None:
    p = made.generate("a cat <tlora:cat:0.8>", enable_hr=True, hr_checkpoint_name=models.VARIED)
    before = list(made.passes)
    found = parameters(p.infotexts[0])
    made.scripts.clear()
    made.passes.clear()
    made.generate(found["Prompt"], enable_hr=True, hr_prompt=found["Hires prompt"], hr_checkpoint_name=models.VARIED)
    assert made.passes == before


def test_a_second_copy_for_the_hires_checkpoint_is_no_second_prompt(
    made: Generations, paste: Callable[[str], dict[str, str]]
) -> None:
    p = made.generate("a cat <tlora:cat:0.8>", enable_hr=True, hr_checkpoint_name=models.VARIED)
    assert parameters(p.infotexts[0])["Hires prompt"] != ""
    found = paste(p.infotexts[0])
    assert (found["Prompt"], found["Hires prompt"]) == ("a cat <tlora:cat:0.8>", "")
    p = made.generate("a <tlora:cat:0.8>", enable_hr=True, hr_prompt="b <tlora:cat:1>")
    found = paste(p.infotexts[0])
    assert (found["Prompt"], found["Hires prompt"]) == ("a <tlora:cat:0.8>", "b <tlora:cat:1>")


def test_a_copy_that_is_gone_is_restored_and_made_anew(
    made: Generations, paste: Callable[[str], dict[str, str]]
) -> None:
    p = made.generate("<tlora:cat:0.8>")
    [copy] = made.copies()
    copy.unlink()
    found = paste(p.infotexts[0])
    made.generate(found["Prompt"])
    assert made.copies() == [copy]


def test_the_next_pictures_parameters_say_nothing_of_the_last(made: Generations) -> None:
    p = made.generate("<tlora:cat:0.8>", box=True)
    # As a plot does, whose cells share them.
    q = made.generate("no lora", extra_generation_params=p.extra_generation_params)
    assert "Transfer LoRA" not in q.infotexts[0]
    assert BOX not in q.infotexts[0]


@pytest.mark.parametrize("tags", ["", "<lora:cat", "<lora:a> is <tlora:b> is <c:d>", "x" * 10_000, "<a:b> is <c:d>; <"])
def test_parameters_of_strangers_do_no_harm(tags: str) -> None:
    found = {"Prompt": "<lora:a:1> <lora:cat:1>", "Hires prompt": "", "Transfer LoRA tags": tags}
    restore(found)
    assert found["Prompt"] in ("<lora:a:1> <lora:cat:1>", "<tlora:b:1> <lora:cat:1>")
    restore({})
