"""Prompt time on stand-ins of both programs: which files a generation loads, with which checkpoint."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import pytest

import lib_transfer
from lib_transfer.conversion import group, jobs
from lib_transfer.formats import identity
from lib_transfer.formats.metadata import MATCH
from lib_transfer.formats.writer import annotate
from lib_transfer.storage import hashes
from lib_transfer.webui.host.settings import PREFIX, USE_ORIGINAL
from lib_transfer.webui.prompt.infotext import BOX
from tests.webui import models
from tests.webui.generations import Generations, Pass, Processing, Txt2Img, generation, request_of, target_of
from tests.webui.programs import Script

BASE, TUNED, VARIED = models.BASE, models.TUNED, models.VARIED


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The LoRAs that modules were carried of, one entry for a transfer."""
    seen: list[str] = []
    original = group.over_modules

    def counted(items, *rest):
        seen.append("a transfer")
        return original(items, *rest)

    monkeypatch.setattr(group, "over_modules", counted)
    return seen


def test_a_missing_copy_is_made_and_loaded_in_place_of_the_original(made: Generations) -> None:
    made.generate("a cat <tlora:cat:0.8>, sitting")
    [copy] = made.copies()
    assert made.passes == [Pass(TUNED, "a cat , sitting", ((copy.name, 0.8, 0.8),))]
    # Byte for byte the request that the command line builds: whatever made a copy, the others find it.
    same = lib_transfer.request(made.program.loras / "cat.safetensors", source=made.path(BASE), target=made.path(TUNED))
    assert request_of(copy) == same.request.to_json()


@pytest.mark.parametrize(
    ("weights", "te", "unet"),
    [
        ("", 1.0, 1.0),
        (":0.3", 0.3, 0.3),
        (":0.3:0.6", 0.3, 0.6),
        (":te=0.2:unet=0.9", 0.2, 0.9),
        (":0.5:unet=0", 0.5, 0.0),
    ],
)
def test_weights_stay_as_they_are_written(made: Generations, weights: str, te: float, unet: float) -> None:
    made.generate(f"a cat <tlora:cat{weights}>")
    assert made.last == ((made.copies()[0].name, te, unet),)


def test_a_copy_that_is_there_is_used_whatever_made_it_and_wherever_it_lies(
    made: Generations, transfers: list[str]
) -> None:
    request = lib_transfer.request(
        made.program.loras / "cat.safetensors", source=made.path(BASE), target=made.path(TUNED)
    )
    folder = made.program.loras / "mine"
    folder.mkdir()
    lib_transfer.transfer(request, lib_transfer.Destination(file=folder / "of my own.safetensors"))
    assert transfers.count("a transfer") == 1
    for _ in range(2):
        made.generate("<tlora:cat:1>")
        assert made.last == (("of my own.safetensors", 1.0, 1.0),)
    assert transfers.count("a transfer") == 1


def test_the_best_that_running_models_made_is_used_whatever_the_settings_say(
    made: Generations, transfers: list[str]
) -> None:
    for seed, gain in ((1, 0.4), (2, 0.9), (3, None)):
        job = lib_transfer.request(
            made.program.loras / "cat.safetensors",
            source=made.path(BASE),
            target=made.path(TUNED),
            method="auto",
            noise_seed=seed,
        )
        # The weights' part of the method alone writes a file that says what made it; here no models are run.
        path = jobs.transfer(job, lib_transfer.Destination(file=made.program.loras / f"auto {seed}.safetensors")).path
        assert path is not None
        if gain is not None:
            annotate(path, {MATCH: json.dumps({"gains": {"imitate": {"gain": gain}}, "best": "imitate"})})
    transfers.clear()
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("auto 2.safetensors", 1.0, 1.0),)
    assert "auto" in str(p.extra_generation_params)
    assert transfers == []
    made.choose(VARIED)
    made.generate("<tlora:cat:1>")
    assert made.last[0][0].startswith("cat_varied_rotation_")


def test_the_copy_follows_the_checkpoint(made: Generations, transfers: list[str]) -> None:
    for name in (TUNED, VARIED, TUNED):
        made.choose(name)
        made.generate("<tlora:cat:1>")
    assert [p.checkpoint for p in made.passes] == [TUNED, VARIED, TUNED]
    assert [target_of(made.program.loras / p.loras[0][0]) for p in made.passes] == [TUNED, VARIED, TUNED]
    assert len(transfers) == 2


def test_a_checkpoint_of_the_generations_own_counts_not_the_chosen_one(made: Generations) -> None:
    made.generate("<tlora:cat:1>", override_settings={"sd_model_checkpoint": VARIED})
    [copy] = made.copies()
    assert made.passes == [Pass(VARIED, "", ((copy.name, 1.0, 1.0),))]
    assert target_of(copy) == VARIED


def test_the_original_is_used_on_the_checkpoint_that_it_was_trained_on(made: Generations) -> None:
    made.choose(BASE)
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)
    assert made.copies() == []
    assert p.comments == {}


def test_without_tag_and_box_nothing_at_all_changes(made: Generations, transfers: list[str]) -> None:
    prompt = "a cat <lora:cat:0.5>, <b:c> <lyco:cat:1> <hypernet:x:1>"
    p = made.generate(prompt, enable_hr=True)
    assert p.all_prompts == p.all_hr_prompts == [prompt]
    assert (p.extra_generation_params, p.comments) == ({}, {})
    assert made.program.listed == 1  # by the stand-in itself
    assert not (made.program.data / "cache").exists()
    assert transfers == []


def test_the_box_asks_for_every_lora(made: Generations) -> None:
    models.lora(made.models, "dog", seed=2)
    p = made.generate("<lora:cat:0.5> <lyco:dog:1> <tlora:cat:0.2> <hypernet:x:1>", box=True)
    assert [(target_of(made.program.loras / name), te) for name, te, _ in made.last] == [
        (TUNED, 0.5),
        (TUNED, 1.0),
        (TUNED, 0.2),
    ]
    assert "<lyco:dog_" in p.all_prompts[0]
    assert "<hypernet:x:1>" in p.all_prompts[0]


def test_an_unknown_name_is_taken_out_and_the_others_go_on(made: Generations) -> None:
    p = made.generate("a cat <tlora:nobody:1><tlora:cat:1><tlora::1>")
    assert made.last == ((made.copies()[0].name, 1.0, 1.0),)
    assert "nobody" not in p.all_prompts[0]
    assert "Transfer LoRA: There is no LoRA named nobody, so its tag was taken out of the prompt." in p.comments
    made.generate("<lora:nobody:1><lora:cat:1>", box=True)
    assert made.last == ((made.copies()[0].name, 1.0, 1.0),)


def test_a_new_file_an_alias_and_a_name_with_its_folder_are_found(made: Generations) -> None:
    models.lora(made.models, "pets/dog", seed=2)
    for name in ("dog", "pets/dog"):
        made.generate(f"<tlora:{name}:1>")
        assert made.last[0][0].startswith("dog_tuned_")
    made.choose(BASE)
    made.generate("<tlora:pets/dog:1>")
    assert made.last == (("dog.safetensors", 1.0, 1.0),)


def test_an_unknown_source_gives_the_original_and_says_so(made: Generations) -> None:
    models.lora(made.models, "silent", trained_on=None)
    models.lora(made.models, "orphan", trained_on="gone.safetensors")
    p = made.generate("<tlora:silent:1><tlora:orphan:0.5>")
    assert made.last == (("silent.safetensors", 1.0, 1.0), ("orphan.safetensors", 0.5, 0.5))
    said = " ".join(p.comments)
    assert "silent is used as it is, not as a copy: The checkpoint that it was trained on is not known." in said
    assert "It asks for gone.safetensors (SHA-256 ababababab), which is not installed." in said
    assert made.copies() == []


def test_the_settings_can_say_to_use_the_original(made: Generations, transfers: list[str]) -> None:
    made.program.opts.data[PREFIX + "missing"] = USE_ORIGINAL
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)
    assert "It has no copy for this checkpoint yet." in " ".join(p.comments)
    assert transfers == []


def test_files_that_cannot_be_transferred_are_used_as_they_are(made: Generations) -> None:
    (made.program.loras / "broken.safetensors").write_bytes(b"{" * 100)
    p = made.generate("<tlora:broken:1> <tlora:cat:1>")
    assert made.last == (("broken.safetensors", 1.0, 1.0), (made.copies()[0].name, 1.0, 1.0))
    assert "broken is used as it is" in " ".join(p.comments)


def test_a_hires_checkpoint_gets_a_copy_of_its_own(made: Generations) -> None:
    made.generate("<tlora:cat:1>", enable_hr=True, hr_checkpoint_name=VARIED)
    first, second = made.passes
    assert (first.checkpoint, second.checkpoint) == (TUNED, VARIED)
    assert [target_of(made.program.loras / p.loras[0][0]) for p in (first, second)] == [TUNED, VARIED]


def test_on_the_hires_checkpoint_the_original_may_be_right(made: Generations) -> None:
    made.generate("<lora:cat:0.7>", box=True, enable_hr=True, hr_checkpoint_name=BASE)
    assert made.passes[0].loras == ((made.copies()[0].name, 0.7, 0.7),)
    assert made.passes[1].loras == (("cat.safetensors", 0.7, 0.7),)
    made.choose(BASE)
    made.generate("<lora:cat:0.7>", box=True, enable_hr=True, hr_checkpoint_name=TUNED, n_iter=2)
    assert [p.loras[0][0] for p in made.passes[2:]] == ["cat.safetensors", made.copies()[0].name] * 2


def test_hires_without_a_checkpoint_keeps_the_first_copy_and_its_own_prompt(made: Generations) -> None:
    made.generate("one <tlora:cat:1>", enable_hr=True, hr_prompt="two <tlora:cat:0.3>", hr_checkpoint_name=None)
    [copy] = made.copies()
    assert made.passes == [
        Pass(TUNED, "one ", ((copy.name, 1.0, 1.0),)),
        Pass(TUNED, "two ", ((copy.name, 0.3, 0.3),)),
    ]


def test_batches_and_lists_of_prompts_are_all_written_anew(made: Generations) -> None:
    prompts = [f"{number} <tlora:cat:0.{number}>" for number in range(1, 5)]
    p = made.generate(prompts, batch_size=2, n_iter=2)
    [copy] = made.copies()
    assert [made_pass.loras[0] for made_pass in made.passes] == [(copy.name, 0.1, 0.1), (copy.name, 0.3, 0.3)]
    assert p.all_prompts == [f"{number} <lora:{copy.stem}:0.{number}>" for number in range(1, 5)]


class Wildcards(Script):
    """Another extension, whose tags come only now."""

    def before_process_batch(self, p, *args, prompts, **kwargs) -> None:
        prompts[:] = [text.replace("__animal__", "<tlora:cat:0.4>") for text in prompts]


def test_tags_that_another_script_brings_later_are_seen_too(made: Generations) -> None:
    made.scripts.insert(0, Wildcards())
    made.generate("a __animal__")
    assert made.last == ((made.copies()[0].name, 0.4, 0.4),)


def test_img2img_is_the_same(made: Generations) -> None:
    with generation(made.program):
        made.run(Processing(made, "<tlora:cat:1>"))
    assert made.last == ((made.copies()[0].name, 1.0, 1.0),)


def test_what_networks_are_off_for_transfers_nothing(made: Generations, transfers: list[str]) -> None:
    made.generate("<tlora:cat:1>", disable_extra_networks=True)
    assert transfers == []


def test_a_damaged_copy_is_not_used(made: Generations) -> None:
    made.generate("<tlora:cat:1>")
    [copy] = made.copies()
    whole = bytearray(copy.read_bytes())
    whole[-1] ^= 1
    copy.write_bytes(whole)
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)
    assert "was changed since" in " ".join(p.comments)
    copy.unlink()
    made.generate("<tlora:cat:1>")
    assert made.last == ((copy.name, 1.0, 1.0),)


def test_one_of_two_equal_copies_is_enough(made: Generations, transfers: list[str]) -> None:
    made.generate("<tlora:cat:1>")
    [copy] = made.copies()
    os.link(copy, copy.with_stem("another"))
    for _ in range(2):
        made.generate("<tlora:cat:1>")
        (made.program.loras / made.last[0][0]).unlink()
        made.list_networks()
    assert made.copies() == []
    assert len(transfers) == 1


def test_a_source_of_another_content_than_asked_for_is_told(made: Generations) -> None:
    lora = models.lora(made.models, "dog", trained_on=BASE)
    other = made.path("renamed.safetensors")
    made.path(BASE).rename(other)
    os.link(made.path(VARIED), made.path(BASE))
    p = made.generate(f"<tlora:{lora.stem}:1>")
    assert "dog: The LoRA asks for a checkpoint with the SHA-256" in " ".join(p.comments)


def test_a_copy_whose_name_another_lora_has_is_not_taken_for_it(made: Generations) -> None:
    made.generate("<tlora:cat:1>")
    [copy] = made.copies()
    (made.program.loras / "zz").mkdir()
    os.link(made.program.loras / "cat.safetensors", made.program.loras / "zz" / copy.name)
    made.list_networks()
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)
    assert "Another LoRA has the name of its copy" in " ".join(p.comments)


def test_a_lora_of_another_family_is_used_as_it_is(made: Generations, checkpoints: Path) -> None:
    other = made.path(models.OTHER)
    os.link(checkpoints / models.OTHER, other)
    made.program.select(made.program.add(other))
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)
    assert "their weights do not correspond" in " ".join(p.comments)


def test_nothing_that_can_be_carried_is_found_out_once(made: Generations, transfers: list[str]) -> None:
    made.program.opts.data[PREFIX + "threshold"] = 1.0
    for _ in range(2):
        p = made.generate("<tlora:cat:1>")
        assert made.last == (("cat.safetensors", 1.0, 1.0),)
        assert "Nothing of it can be carried" in " ".join(p.comments)
    assert len(transfers) == 1


def test_two_generations_that_miss_the_same_copy_make_it_once(made: Generations, transfers: list[str]) -> None:
    both, found = threading.Barrier(2), []

    def one() -> None:
        p = Txt2Img(made, "<tlora:cat:1>")
        both.wait(10)
        made.run(p)
        found.append(p.all_prompts[0])

    made.program.state.begin(job="two")
    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [f"<lora:{made.copies()[0].stem}:1>"] * 2
    assert len(transfers) == 1


def hold_first_module(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """When the first module is carried, ``then`` happens."""
    carry = group.carry
    done: list[bool] = []

    def held(*arguments):
        if not done:
            done.append(True)
            then()
        return carry(*arguments)

    monkeypatch.setattr(group, "carry", held)


@pytest.mark.parametrize("button", ["interrupted", "stopping_generation"])
def test_an_interrupt_during_the_transfer_ends_the_generation(
    made: Generations, monkeypatch: pytest.MonkeyPatch, button: str
) -> None:
    state = made.program.state
    hold_first_module(monkeypatch, lambda: setattr(state, button, True))
    before = set(made.program.loras.iterdir())
    p = Txt2Img(made, "<tlora:cat:1>", n_iter=3)
    with generation(made.program):
        state.sampling_steps = 20
        assert made.run(p) == []
        assert (state.job_count, state.sampling_steps, state.textinfo) == (3, 20, None)
    assert made.passes == []
    assert set(made.program.loras.iterdir()) == before


def test_skip_during_the_transfer_makes_the_picture_with_the_original(
    made: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_first_module(monkeypatch, lambda: setattr(made.program.state, "skipped", True))
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)
    assert "Skipped" in " ".join(p.comments)
    assert made.copies() == []


def test_an_interrupt_during_a_later_batchs_transfer_makes_no_further_picture(
    made: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.scripts.insert(0, Wildcards())
    hold_first_module(monkeypatch, lambda: setattr(made.program.state, "interrupted", True))
    made.generate("a __animal__")
    assert made.passes == []


def test_progress_is_shown_in_the_generations_own_bar(made: Generations, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []
    state = made.program.state

    def look() -> None:
        seen.append((state.job_count, state.job_no, state.sampling_steps, state.textinfo))

    hold_first_module(monkeypatch, look)
    made.generate("<tlora:cat:1>")
    assert seen == [(1, 0, models.MODULES, "Transfer LoRA: cat to tuned")]


def during_hashing(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """After the first piece of every file that is hashed, ``then`` happens."""
    real = hashes.file_sha256

    def held(path, read):
        def first(count):
            read(count)
            then()

        return real(path, first)

    monkeypatch.setattr(identity, "_CHUNK", 1 << 12)
    monkeypatch.setattr(hashes, "file_sha256", held)


def test_hashing_is_shown_in_the_generations_own_bar(made: Generations, monkeypatch: pytest.MonkeyPatch) -> None:
    state, seen = made.program.state, []
    during_hashing(monkeypatch, lambda: seen.append((state.textinfo, state.sampling_step, state.sampling_steps)))
    made.generate("<tlora:cat:1>")
    assert len(made.copies()) == 1
    shown = [
        (step, steps) for text, step, steps in seen if (text or "").startswith("Transfer LoRA: Reading cat.safetens")
    ]
    total = sum(path.stat().st_size for path in (made.program.loras / "cat.safetensors", made.path(models.BASE)))
    total += made.path(models.TUNED).stat().st_size
    assert {text for text, *_ in seen if "Reading" not in text} <= {"Transfer LoRA: looking for the copy of cat"}
    assert {steps for _, steps in shown} == {total}
    assert len({step for step, _ in shown}) > 2
    assert re.fullmatch(
        r"Transfer LoRA: Reading cat\.safetensors, base\.safetensors and tuned\.safetensors, 0\.\d of \d\.\d MB",
        seen[0][0],
    )


def test_skip_while_hashing_makes_the_picture_with_the_original(
    made: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_hashing(monkeypatch, lambda: setattr(made.program.state, "skipped", True))
    p = made.generate("<tlora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)
    assert "Skipped" in " ".join(p.comments)


def test_an_interrupt_while_hashing_makes_no_picture(made: Generations, monkeypatch: pytest.MonkeyPatch) -> None:
    during_hashing(monkeypatch, lambda: setattr(made.program.state, "interrupted", True))
    made.generate("<tlora:cat:1>")
    assert made.passes == []
    assert made.copies() == []


def test_the_box_can_be_made_again_and_again_and_is_unticked(made: Generations) -> None:
    ids = []
    for is_img2img in (False, True, False):
        with gr.Blocks() as page:
            [box] = made.script.ui(is_img2img)
        assert (box.label, box.value, made.script.infotext_fields) == (BOX, False, [(box, BOX)])
        assert made.script.paste_field_names == [BOX]
        # Its default may be changed in ui-config.json, as the others' there.
        assert not getattr(box, "do_not_save_to_config", False)
        ids.append(sorted(block.elem_id for block in page.blocks.values() if getattr(block, "elem_id", None)))
    assert ids[0] == ids[2] == ["transfer_lora_txt2img", "transfer_lora_txt2img_use"]
    assert ids[1] == ["transfer_lora_img2img", "transfer_lora_img2img_use"]
    assert made.script.title().lower() == "transfer lora"  # what an API client calls it


@pytest.mark.parametrize("arguments", [(), (None,), (False, "of a newer version")])
def test_calls_of_older_and_newer_clients_are_understood(made: Generations, arguments: tuple[object, ...]) -> None:
    made.script.args_to = made.script.args_from + len(arguments)
    p = Txt2Img(made, "<lora:cat:1> <tlora:cat:0.5>", script_args=(0, *arguments))
    with generation(made.program):
        made.run(p)
    assert [name for name, _, _ in made.last] == ["cat.safetensors", made.copies()[0].name]
