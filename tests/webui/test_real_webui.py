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
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from lib_transfer.architecture import modules, recognise
from lib_transfer.formats.identity import file_sha256
from lib_transfer.formats.safetensors_file import read_header
from tests import tiny
from tests.webui.conftest import ROOT, free_port

pytestmark = pytest.mark.timeout(900)
EXTENSION = ("lib_transfer", "scripts", "javascript", "style.css", "install.py", "metadata.ini")
PROMPT = "a cat"


@dataclass
class WebUI:
    """A running program."""

    url: str
    loras: Path
    source: Path
    target: Path

    def call(self, route: str, body: object | None = None):
        """Call the program's own API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + route, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)

    def picture(self, prompt: str) -> np.ndarray:
        """A small picture on the target."""
        body = {"prompt": prompt, "width": 64, "height": 64, "steps": 1, "seed": 1, "sampler_name": "Euler"}
        made = self.call(
            "sdapi/v1/txt2img",
            {
                **body,
                "override_settings": {"sd_model_checkpoint": self.target.name},
                "override_settings_restore_afterwards": False,
            },
        )
        image = Image.open(io.BytesIO(base64.b64decode(made["images"][0]))).convert("RGB")
        return np.asarray(image).astype(float)


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
    put_extension(data / "extensions" / "transfer-lora")
    port, log = free_port(), data / "log"
    forge = (folder / "modules_forge").is_dir()
    command = [str(python), "launch.py", "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check"]
    command += ["--skip-python-version-check", "--api", "--server-name", "127.0.0.1", "--port", str(port)]
    command += ["--no-download-sd-model", "--do-not-download-clip", "--data-dir", str(data)]
    command += ["--ckpt-dir", str(checkpoints), "--lora-dir", str(loras)]
    command += ["--always-cpu"] if forge else ["--use-cpu", "all", "--no-half"]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("MPLBACKEND", None)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 400
        # Not by HTTP: a request before A1111 is ready ends its start.
        while "Startup time:" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
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


def lora_for(checkpoint: Path, path: Path) -> None:
    """A strong LoRA on part of ``checkpoint``, which names it as what it was trained on."""
    shapes = {key: info.shape for key, info in read_header(checkpoint).tensors.items()}
    found = [m for m in modules(recognise(shapes), shapes) if m.kind == "linear" and m.output_name]
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
    tab.page.locator("#tabs > .tab-nav > button").get_by_text("Transfer LoRA", exact=True).click(timeout=120_000)
    tab.ready()
    tab.choose("learned", target=webui.target.name)
    assert f"{webui.source.name}, found by" in tab.part("chosen").inner_text()
    began = time.monotonic()
    tab.page.set_default_timeout(600_000)
    assert tab.run("transfer") == "Done: 1 written."
    took = time.monotonic() - began
    tab.page.set_default_timeout(60_000)
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
