"""Generations of a real WebUI: ``pytest tests/webui --webui DIR``. Left out where no WebUI is given.

Pictures with and without transferred LoRAs, what the extension does at a prompt, and our hooks in the program's own models.
"""

from __future__ import annotations

import base64
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from lib_transfer.formats.identity import file_sha256
from lib_transfer.webui.hosts.running.kinds import UNGUIDED
from tests.waiting import HANG, until
from tests.webui.real import WebUI, architecture_of, modules_of, pixels

pytestmark = pytest.mark.timeout(0)  # a real model on a processor: each wait has its limit, the whole has none
PROMPT = "a cat"
TOLERANCE = 1e-4
"""Between an adapter by our hooks and by the program's loader, as a share of how far it moves the prediction."""

BOX = {"alwayson_scripts": {"Transfer LoRA": {"args": [True]}}}


def test_the_pictures_of_a_tag_are_those_of_the_copy(webui: WebUI) -> None:
    made = webui.generate(f"{PROMPT} <tlora:learned:1>")
    [copy] = webui.copies()
    tag, plain = f"{PROMPT} <tlora:learned:1>", f"{PROMPT} <lora:{copy.stem}:1>"
    without, with_copy = webui.picture(PROMPT), webui.picture(plain)
    assert np.array_equal(webui.picture(tag), with_copy)
    assert np.array_equal(webui.picture(f"{PROMPT} <lora:learned:1>", **BOX), with_copy)
    assert np.array_equal(webui.picture(f"{tag} <tlora:nobody:1>"), with_copy)
    assert np.abs(with_copy - without).mean() > 0.2
    for weights in ("0.5", "te=0:unet=1", "1:0"):
        ours, theirs = f"{PROMPT} <tlora:learned:{weights}>", f"{PROMPT} <lora:{copy.stem}:{weights}>"
        assert np.array_equal(webui.picture(ours), webui.picture(theirs)), weights
    assert webui.copies() == [copy]

    # The checkpoint is switched, and back again: on the LoRA's own the original is right.
    own = webui.picture(tag, webui.source)
    assert np.array_equal(own, webui.picture(f"{PROMPT} <lora:learned:1>", webui.source))
    assert not np.array_equal(own, webui.picture(plain, webui.source))
    assert np.array_equal(webui.picture(tag), with_copy)

    # What the picture says of itself, and what is restored of that.
    infotext = json.loads(made["info"])["infotexts"][0]
    assert f'Transfer LoRA: "learned -> rotation, {file_sha256(webui.target)[:10]}"' in infotext
    assert f"<lora:{copy.stem}:1>" in infotext.split("\n")[0]
    picture = "data:image/png;base64," + made["images"][0]
    assert webui.call("sdapi/v1/png-info", {"image": picture})["parameters"]["Prompt"] == tag


def test_an_adapter_by_our_hooks_does_what_the_programs_own_loader_does(webui: WebUI) -> None:
    webui.picture(PROMPT)  # the chosen checkpoint is the loaded one
    body = {"checkpoint": str(webui.source), "lora": str(webui.loras / "beside" / "wide.safetensors")}
    said = webui.call("transfer-lora-probe/adapters", body)
    assert said["changes"] > 30
    assert said["text"] > 20 or not any(module.position.part.startswith("te") for module in modules_of(webui.source))
    assert said["lacking"] == []
    assert said["difference"] < TOLERANCE * said["movement"]["theirs"], said
    assert said["same_weights"]
    assert said["same_prediction"]
    assert said["latents"] == [True, True]
    assert said["pictures"] == [1, 3, 64, 64]
    assert said["before"] == said["after"]


def test_gradients_find_their_way_through_the_programs_own_model(webui: WebUI) -> None:
    webui.picture(PROMPT)
    body = {"checkpoint": str(webui.source), "lora": str(webui.loras / "beside" / "wide.safetensors")}
    said = webui.call("transfer-lora-probe/gradients", body)
    assert said["reached"] == said["of"] > 30
    assert said["slope"] == pytest.approx(said["difference"], rel=0.02), said
    assert said["same_prediction"]
    assert said["same_weights"]
    assert said["before"] == said["after"]


def test_plain_reuse_on_the_source_itself_reproduces_and_the_persons_checkpoint_comes_back(webui: WebUI) -> None:
    picture = webui.picture(PROMPT, webui.target)
    before = webui.call("transfer-lora-probe/state", {})
    assert before["loaded"] == webui.target.name
    lora = str(webui.loras / "beside" / "wide.safetensors")
    body = {"source": str(webui.source), "target": str(webui.source), "lora": lora, "transferred": lora}
    body |= {"number": 2, "steps": 3}
    said = webui.call("transfer-lora-probe/verified", body)
    assert said["gains"] == {"transferred": pytest.approx(1, abs=1e-3), "reuse": pytest.approx(1, abs=1e-3)}
    # What is said beforehand counts two runs for each step of a picture; without guidance there is one: 3 steps of 10 pictures.
    unguided = architecture_of(webui.source).id in UNGUIDED
    assert said["runs"] == [208 - 30 * unguided, 208]
    assert said["before"] == said["after"]
    assert webui.call("transfer-lora-probe/state", {}) == before

    # Between relatives it does something else; and stopped with the source in memory, the person's comes back too.
    body["target"] = str(webui.target)
    said = webui.call("transfer-lora-probe/verified", {**body, "most": 60})
    assert said["stopped"]
    assert said["runs"] == [60, 208]
    assert webui.call("transfer-lora-probe/state", {}) == before
    assert np.array_equal(webui.picture(PROMPT, webui.target), picture)


def test_two_passes_with_two_checkpoints_have_two_copies(webui: WebUI) -> None:
    webui.generate(f"{PROMPT} <tlora:learned:1>")
    [copy] = webui.copies()
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "None", "denoising_strength": 0.7}
    hires |= {
        "hr_checkpoint_name": webui.source.name,
        "hr_second_pass_steps": 1,
        "hr_additional_modules": ["Use same choices"],
    }
    ours = webui.picture(f"{PROMPT} <tlora:learned:1>", **hires)
    theirs = webui.picture(f"{PROMPT} <lora:{copy.stem}:1>", **hires, hr_prompt=f"{PROMPT} <lora:learned:1>")
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, webui.picture(f"{PROMPT} <lora:{copy.stem}:1>", **hires))


def test_img2img_is_the_same(webui: WebUI) -> None:
    webui.generate(f"{PROMPT} <tlora:learned:1>")
    [copy] = webui.copies()
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(file, "PNG")
    start = {"init_images": [base64.b64encode(file.getvalue()).decode()], "steps": 2, "route": "img2img"}
    with_copy = webui.picture(f"{PROMPT} <lora:{copy.stem}:1>", **start)
    assert np.array_equal(webui.picture(f"{PROMPT} <tlora:learned:1>", **start), with_copy)
    assert not np.array_equal(webui.picture(PROMPT, **start), with_copy)


def test_a_plot_shows_off_original_and_transferred(webui: WebUI) -> None:
    [plot] = [s for s in webui.call("sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    axes = plot["args"][0]["choices"]
    assert [axis for axis in axes if axis.startswith("[Transfer LoRA]")] == [
        f"[Transfer LoRA] {what}" for what in ("use", "method", "threshold", "subspace energy")
    ]
    use = axes.index("[Transfer LoRA] use")
    values = ["off", "original", "transferred"]
    asked = {"Draw legend": False, "Include Sub Images": True}
    more = [asked.get(argument["label"], argument["value"]) for argument in plot["args"][9:]]
    arguments = [use, "", values, 0, "", [], 0, "", [], *more]
    made = webui.generate(f"{PROMPT} <lora:learned:1>", script_name="x/y/z plot", script_args=arguments)
    cells = [pixels(image) for image in made["images"][-3:]]
    [copy] = webui.copies()
    for cell, prompt in zip(cells, ("", "<lora:learned:1>", f"<lora:{copy.stem}:1>"), strict=True):
        assert np.array_equal(cell, webui.picture(f"{PROMPT} {prompt}"))


def test_an_interrupt_during_the_transfer_leaves_neither_picture_nor_file(webui: WebUI) -> None:
    before, answers = webui.copies(), []
    # Another subspace: nothing of it is remembered.
    settings = {"transfer_lora_subspace_rank": 97}
    asking = threading.Thread(
        target=lambda: answers.append(webui.generate(f"{PROMPT} <tlora:learned:1>", n_iter=2, settings=settings))
    )
    asking.start()
    until(lambda: "Transfer LoRA" in str(webui.call("sdapi/v1/progress")["textinfo"]), every=0.05)
    webui.call("sdapi/v1/interrupt", {})
    asking.join(HANG)
    [answer] = answers
    assert answer["images"] == []
    assert webui.copies() == before
    assert webui.picture(f"{PROMPT} <tlora:learned:1>").shape == (64, 64, 3)
