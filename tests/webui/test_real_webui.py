"""The tab in a real WebUI: ``pytest tests/webui --webui DIR``. Left out where no WebUI is given.

Starts the program with this extension and a data folder of its own, so that nothing in the program's folder changes;
transfers a LoRA in a browser; and makes pictures with and without the new LoRA.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_transfer.architecture import modules, recognise
from lib_transfer.architecture.module import Module
from lib_transfer.formats.identity import file_sha256
from lib_transfer.formats.safetensors_file import read_header
from tests import tiny
from tests.waiting import HANG, until
from tests.webui.conftest import ROOT, free_port

pytestmark = pytest.mark.timeout(0)  # a real model on a processor: each wait has its limit, the whole has none
EXTENSION = ("lib_transfer", "scripts", "javascript", "style.css", "install.py", "metadata.ini")
PROMPT = "a cat"
TOLERANCE = 1e-4
"""Between an adapter by our hooks and by the program's loader, as a share of how far it moves the prediction."""


@dataclass
class WebUI:
    """A running program."""

    url: str
    loras: Path
    source: Path
    target: Path

    def call(self, route: str, body: object | None = None):
        """Call the program's own API, or that of the probe beside the extension."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + route, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=HANG) as reply:
            return json.load(reply)

    def generate(self, prompt: str, checkpoint: Path | None = None, *, route: str = "txt2img", **more: object) -> dict:
        """A small picture on the target or another checkpoint: the program's answer. ``settings`` are for this one."""
        settings = {"sd_model_checkpoint": (checkpoint or self.target).name, **more.pop("settings", {})}
        body = {"prompt": prompt, "width": 64, "height": 64, "steps": 1, "seed": 1, "sampler_name": "Euler"}
        body |= {"override_settings": settings, "override_settings_restore_afterwards": len(settings) > 1}
        return self.call(f"sdapi/v1/{route}", {**body, **more})

    def picture(self, prompt: str, checkpoint: Path | None = None, **more: object) -> np.ndarray:
        """A small picture as numbers."""
        [image, *_] = self.generate(prompt, checkpoint, **more)["images"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")).astype(float)

    def copies(self) -> list[Path]:
        """Every LoRA but the one that was there."""
        return sorted(path for path in self.loras.glob("*.safetensors") if path.stem != "learned")


@pytest.fixture(scope="module")
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = request.config.getoption("--webui")
    folder = folder.resolve()
    python = request.config.getoption("--webui-python") or folder / "venv" / "bin" / "python"
    checkpoints = request.config.getoption("--webui-models") or folder / "models" / "Stable-diffusion"
    data = tmp_path_factory.mktemp("webui")
    source, target = relatives(checkpoints)
    loras = data / "Lora"
    loras.mkdir()
    lora_for(source, loras / "learned.safetensors")
    wide_lora_for(source, loras / "beside" / "wide.safetensors")
    put_extension(data / "extensions" / "transfer-lora")
    probe = data / "extensions" / "transfer-lora-probe" / "scripts"
    probe.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "webui" / "probe.py", probe)
    port, log = free_port(), data / "log"
    forge = (folder / "modules_forge").is_dir()
    command = [str(python), "launch.py", "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check"]
    command += ["--skip-python-version-check", "--api", "--server-name", "127.0.0.1", "--port", str(port)]
    command += ["--no-download-sd-model", "--do-not-download-clip", "--data-dir", str(data)]
    command += ["--ckpt-dir", str(checkpoints), "--lora-dir", str(loras)]
    # With a data folder elsewhere, gradio 4 would not hand out the program's own javascript.
    command += ["--gradio-allowed-path", str(folder), "--gradio-allowed-path", str(data)]
    # In full precision: an adapter that is added to weights in half precision is rounded with them.
    command += ["--always-cpu", "--clip-in-fp32"] if forge else ["--use-cpu", "all", "--no-half"]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("MPLBACKEND", None)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:

        def started() -> bool:
            # Not by HTTP: a request before A1111 is ready ends its start.
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            return "Startup time:" in log.read_text(errors="replace")

        until(started, every=0.5)
        yield WebUI(f"http://127.0.0.1:{port}/", loras, source, target)
        said = log.read_text(errors="replace")
        assert "transfer_lora.py" not in said, said[said.index("transfer_lora.py") - 200 :][:3000]
        assert "Transfer LoRA will not work" not in said
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def relatives(folder: Path) -> tuple[Path, Path]:
    """Two checkpoints of one architecture."""
    known: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        title = recognise({key: info.shape for key, info in read_header(path).tensors.items()}).title
        if title in known:
            return known[title], path
        known[title] = path
    pytest.fail(f"{folder} holds no two checkpoints of one architecture; name such a folder with --webui-models")


def modules_of(checkpoint: Path) -> list[Module]:
    """Those that the programs load a LoRA on."""
    shapes = {key: info.shape for key, info in read_header(checkpoint).tensors.items()}
    return [module for module in modules(recognise(shapes), shapes) if module.output_name]


def wide_lora_for(checkpoint: Path, path: Path) -> None:
    """A LoRA with modules of every kind: linear layers, convolutions and normalisations of UNet and text encoders."""
    tensors = {}
    for number, module in enumerate(modules_of(checkpoint)):
        name = str(module.output_name)
        if module.kind == "norm" and number % 3 == 0:
            tensors |= {f"{name}.{part}_norm": 0.05 * torch.ones(module.shape) for part in "wb"}
        # Whole attentions: some programs load their parts only together.
        elif module.kind in ("linear", "convolution") and ("self_attn" in module.position.role or number % 3 == 0):
            tensors |= tiny.factors(name, module.shape, 4, seed=number, size=0.02)
    path.parent.mkdir()
    save_file({key: t.contiguous() for key, t in tensors.items()}, path, {"ss_output_name": path.stem})


def lora_for(checkpoint: Path, path: Path) -> None:
    """A strong LoRA on part of ``checkpoint``, which names it as what it was trained on."""
    found = [module for module in modules_of(checkpoint) if module.kind == "linear"]
    chosen = [m for m in found if m.position.role.startswith(("attn2", "self_attn"))][::3]
    tensors = {}
    for number, module in enumerate(chosen):
        tensors |= tiny.factors(str(module.output_name), module.shape, 4, seed=number)
    metadata = {
        "ss_sd_model_name": checkpoint.name,
        "ss_new_sd_model_hash": file_sha256(checkpoint),
        "ss_base_model_version": "sd_v1",
        "ss_output_name": path.stem,
    }
    save_file({key: t.contiguous() for key, t in tensors.items()}, path, metadata)


def put_extension(place: Path) -> None:
    place.mkdir(parents=True)
    for name in EXTENSION:
        whole = ROOT / name
        if whole.is_dir():
            shutil.copytree(whole, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(whole, place / name)


def test_the_whole_way_in_a_real_webui(webui: WebUI, window) -> None:
    webui.picture(PROMPT)  # the program loads its model only now, in peace
    tab = window(webui.url, theme="dark", ours=True)
    tab.page.locator("#tabs > .tab-nav > button").get_by_text("Transfer LoRA", exact=True).click()
    tab.ready()
    tab.choose("learned", target=webui.target.name)
    assert f"{webui.source.name}, found by" in tab.part("chosen").inner_text()
    began = time.monotonic()
    assert tab.run("transfer") == "Done: 1 written."
    took = time.monotonic() - began
    row = tab.rows()[0]
    [new] = [path for path in webui.loras.glob("*.safetensors") if path.stem != "learned"]
    tag = tab.part("overview").locator("code").inner_text()
    assert tag == f"<lora:{new.stem}:1>"
    assert new.stem in [listed["name"] for listed in webui.call("sdapi/v1/loras")]
    if os.environ.get("TRANSFER_LORA_SCREENSHOTS"):
        tab.shot(Path(os.environ["TRANSFER_LORA_SCREENSHOTS"]) / f"{webui.target.stem}-real.png")

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
    tab.page.locator("#txt2img_extra_tabs > .tab-nav > button").get_by_text("Lora", exact=True).click()
    card = tab.page.locator(f'#txt2img_lora_cards .card[data-name="{new.stem}"]').first
    card.wait_for(state="visible")
    card.locator(".transfer-lora-card").dispatch_event("click")
    tab.part("adapters").locator(".token").get_by_text(new.stem).wait_for()
    assert tab.part("adapters").is_visible()
    # The copy is for the target already, which its own metadata says.
    tab.part("chosen").get_by_text(f"{webui.target.name}, found by").wait_for()


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
    body = {"checkpoint": str(webui.source), "lora": str(webui.loras / "beside" / "wide.safetensors")}
    said = webui.call("transfer-lora-probe/adapters", body)
    assert said["changes"] > 100
    assert said["text"] > 20
    assert said["lacking"] == []
    assert said["blocks"] >= 15
    assert said["difference"] < TOLERANCE * said["movement"]["theirs"], said
    assert said["same_weights"]
    assert said["same_prediction"]
    assert said["latents"] == [[1, 4, 8, 8], True]
    assert said["pictures"] == [1, 3, 64, 64]
    assert said["before"] == said["after"]


def test_gradients_find_their_way_through_the_programs_own_model(webui: WebUI) -> None:
    body = {"checkpoint": str(webui.source), "lora": str(webui.loras / "beside" / "wide.safetensors")}
    said = webui.call("transfer-lora-probe/gradients", body)
    assert said["reached"] == said["of"] > 50
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
    assert said["matches"] == {"transferred": pytest.approx(1, abs=1e-3), "reuse": pytest.approx(1, abs=1e-3)}
    assert said["runs"] == [22, 22]
    assert said["before"] == said["after"]
    assert webui.call("transfer-lora-probe/state", {}) == before

    # Between relatives it does something else; and stopped with the source in memory, the person's comes back too.
    body["target"] = str(webui.target)
    said = webui.call("transfer-lora-probe/verified", {**body, "most": 14})
    assert said["stopped"]
    assert said["runs"] == [14, 22]
    assert webui.call("transfer-lora-probe/state", {}) == before
    assert np.array_equal(webui.picture(PROMPT, webui.target), picture)


def test_two_passes_with_two_checkpoints_have_two_copies(webui: WebUI) -> None:
    webui.generate(f"{PROMPT} <tlora:learned:1>")
    [copy] = webui.copies()
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
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
    arguments = [use, "", values, 0, "", [], 0, "", [], False, True, False, False, False, False, False, 0, False]
    made = webui.generate(f"{PROMPT} <lora:learned:1>", script_name="x/y/z plot", script_args=arguments)
    cells = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")).astype(float)
        for image in made["images"][-3:]
    ]
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


def test_compare_in_the_tab(webui: WebUI, window) -> None:
    tab = window(webui.url, theme="dark", ours=True)
    tab.page.locator("#tabs > .tab-nav > button").get_by_text("Transfer LoRA", exact=True).click()
    tab.ready()
    tab.choose("learned", target=webui.target.name)
    tab.part("comparison").locator(".label-wrap").click()
    tab.part("prompt").locator("textarea").fill(PROMPT)
    for name, value in (("steps", 1), ("width", 64), ("height", 64), ("seed", 1)):
        field = tab.part(name).locator("input[type=number]")
        field.fill(str(value))
        field.blur()
    tab.begin("compare")
    assert tab.until("done").endswith("4 pictures.")
    figures = tab.part("pictures").locator("figure")
    assert [figure.get_attribute("data-role") for figure in figures.all()] == [
        "without",
        "source",
        "reuse",
        "transferred",
    ]
    assert figures.locator("img").count() == 4
    assert "differs by" in figures.nth(3).inner_text()
    if os.environ.get("TRANSFER_LORA_SCREENSHOTS"):
        tab.shot(Path(os.environ["TRANSFER_LORA_SCREENSHOTS"]) / f"{webui.target.stem}-compare.png")


def test_the_page_restores_tag_and_box_and_says_what_went_otherwise(webui: WebUI, window) -> None:
    tab = window(webui.url, theme="dark", ours=True)
    prompt, box = tab.page.locator("#txt2img_prompt textarea"), tab.page.locator("#transfer_lora_txt2img_use input")
    for written, more in (
        (f"{PROMPT} <lora:learned:0.7>", BOX),
        (f"{PROMPT} <tlora:learned:te=0:unet=1>", {}),
        ("no LoRA at all", {}),
    ):
        [infotext] = json.loads(webui.generate(written, **more)["info"])["infotexts"]
        prompt.fill(infotext)
        tab.page.locator("#txt2img_tools #paste").click()
        tab.wait(f"document.querySelector('#txt2img_prompt textarea').value === {json.dumps(written)}")
        tab.wait(f"document.querySelector('#transfer_lora_txt2img_use input').checked === {json.dumps(bool(more))}")
    # The page makes its pictures in another thread than the API. Size and steps are those that were pasted.
    prompt.fill(f"{PROMPT} <tlora:nobody:1>")
    tab.page.locator("#txt2img_generate").click()
    tab.page.locator("#html_log_txt2img").get_by_text("There is no LoRA named nobody").first.wait_for()
    if os.environ.get("TRANSFER_LORA_SCREENSHOTS"):
        tab.page.locator("#transfer_lora_txt2img .label-wrap").click()
        box.check()
        tab.shot(Path(os.environ["TRANSFER_LORA_SCREENSHOTS"]) / f"{webui.target.stem}-box.png")
