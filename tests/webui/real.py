"""A real WebUI that runs with this extension and a data folder of its own, so that nothing in its folder changes."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_transfer.architecture import Architecture, modules, recognise
from lib_transfer.architecture.module import Module
from lib_transfer.formats.identity import file_sha256
from lib_transfer.formats.safetensors_file import read_header
from tests import tiny
from tests.waiting import HANG, until
from tests.webui.driver import Tab

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ("lib_transfer", "scripts", "javascript", "style.css", "install.py", "metadata.ini")
NO_DOWNLOADS = ("--no-download-sd-model", "--do-not-download-clip")
# In full precision: an adapter that is added to weights in half precision is rounded with them.
ARGUMENTS = {
    "A1111": (*NO_DOWNLOADS, "--use-cpu", "all", "--no-half"),
    "Forge": (*NO_DOWNLOADS, "--always-cpu", "--clip-in-fp32"),
    "Forge Neo": ("--cpu", "--force-fp32", "--fp32-text-enc"),
}
"""What each program is started with to run on a processor, without a network."""


@dataclass
class WebUI:
    """A program that is installed in ``folder``.

    Attributes:
        python: its python.
        checkpoints: a folder with two checkpoints of one architecture, ``source`` and ``target``.
        data: its data folder.
        port: the port that it answers on.
        modules: a folder with the text encoders and the VAE that the checkpoints lack; Forge and Forge Neo load them beside.
        beside: another extension, which is put beside ours.
    """

    folder: Path
    python: Path
    checkpoints: Path
    data: Path
    port: int
    modules: Path | None = None
    beside: Path | None = None
    source: Path = field(init=False)
    target: Path = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.source, self.target = relatives(self.checkpoints)
        self.loras.mkdir()
        _put_extension(self.data / "extensions" / "transfer-lora")
        probe = self.data / "extensions" / "transfer-lora-probe" / "scripts"
        probe.mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "webui" / "probe.py", probe)
        if self.beside is not None:
            shutil.copytree(self.beside, self.data / "extensions" / self.beside.name)
        # At its very first start, which has no such file, Forge Neo pastes no prompts, whatever they are.
        (self.data / "ui-config.json").write_text(json.dumps({"txt2img/Prompt/value": ""}), encoding="utf-8")

    @property
    def loras(self) -> Path:
        """Its LoRA folder."""
        return self.data / "Lora"

    @property
    def url(self) -> str:
        """Where its page is."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def kind(self) -> str:
        """Which program it is."""
        flags = self.folder / "backend" / "args.py"
        if not flags.exists():
            return "A1111"
        return "Forge" if "--always-cpu" in flags.read_text(encoding="utf-8") else "Forge Neo"

    @property
    def said(self) -> str:
        """Its console."""
        return (self.data / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [str(self.python), "launch.py", "--skip-prepare-environment", "--skip-torch-cuda-test"]
        command += ["--skip-version-check", "--skip-python-version-check", "--api", "--server-name", "127.0.0.1"]
        command += ["--port", str(self.port), "--data-dir", str(self.data), "--lora-dir", str(self.loras)]
        # With a data folder elsewhere, gradio 4 would not hand out the program's own javascript.
        command += ["--gradio-allowed-path", str(self.folder), "--gradio-allowed-path", str(self.data)]
        command += ["--ckpt-dir", str(self.checkpoints), *ARGUMENTS[self.kind]]
        if self.modules is not None:
            plural = "s" if self.kind == "Forge Neo" else ""
            command += [f"--text-encoder-dir{plural}", str(self.modules), f"--vae-dir{plural}", str(self.modules)]
        offline = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **offline}
        environment.pop("MPLBACKEND", None)
        ready = (self.said.count(READY) if (self.data / "log").exists() else 0) + 1
        with (self.data / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self._process = process

        def started() -> bool:
            # Not by HTTP: a request before A1111 is ready ends its start.
            assert process.poll() is None, self.said[-3000:]
            return self.said.count(READY) >= ready

        until(started, every=0.5)
        if self.modules is not None:
            chosen = sorted(path.name for path in self.modules.iterdir())
            self.call("sdapi/v1/options", {"forge_additional_modules": chosen})

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        process = self._process
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(HANG)

    def call(self, route: str, body: object | None = None) -> Any:
        """Call the program's own API, or that of the probe beside the extension."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + route, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=HANG) as reply:
            return json.load(reply)

    def generate(self, prompt: str, checkpoint: Path | None = None, *, route: str = "txt2img", **more: Any) -> Any:
        """A small picture on the target or another checkpoint: the program's answer. ``settings`` are for this one."""
        settings = {"sd_model_checkpoint": (checkpoint or self.target).name, **more.pop("settings", {})}
        body = {"prompt": prompt, "width": 64, "height": 64, "steps": 1, "seed": 1, "sampler_name": "Euler"}
        body |= {"override_settings": settings, "override_settings_restore_afterwards": len(settings) > 1}
        return self.call(f"sdapi/v1/{route}", {**body, **more})

    def picture(self, prompt: str, checkpoint: Path | None = None, **more: Any) -> np.ndarray[Any, Any]:
        """A small picture as numbers."""
        [image, *_] = self.generate(prompt, checkpoint, **more)["images"]
        return pixels(image)

    def copies(self, of: str = "learned") -> list[Path]:
        """Every transferred LoRA whose name begins with ``of``."""
        return sorted(path for path in self.loras.glob(f"{of}_*.safetensors"))

    def files(self) -> set[str]:
        """Names of everything in the LoRA folder."""
        return {path.relative_to(self.loras).as_posix() for path in self.loras.rglob("*") if path.is_file()}

    def checkpoint(self) -> str:
        """The file name of the checkpoint that is chosen in the program; A1111 adds a hash to it."""
        return str(self.call("sdapi/v1/options")["sd_model_checkpoint"]).partition(" [")[0]

    def tab(self, window: Callable[..., Tab]) -> Tab:
        """A new page with our tab open."""
        tab = window(self.url, theme="dark", ours=True)
        tab.page.locator("#tabs > .tab-nav > button").get_by_text("Transfer LoRA", exact=True).click()
        return tab.ready()


READY = "Startup time:"


def pixels(image: str) -> np.ndarray[Any, Any]:
    """A picture from an answer of the API as numbers."""
    return pixels_of(base64.b64decode(image))


def pixels_of(file: bytes) -> np.ndarray[Any, Any]:
    """A picture's file as numbers."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(float)


def relatives(folder: Path) -> tuple[Path, Path]:
    """Two checkpoints of one architecture.

    Raises:
        AssertionError: the folder has none.
    """
    known: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        title = architecture_of(path).title
        if title in known:
            return known[title], path
        known[title] = path
    raise AssertionError(f"{folder} holds no two checkpoints of one architecture; name such a folder: --webui-models")


sha256 = functools.cache(file_sha256)


def wide_lora_for(checkpoint: Path, path: Path) -> None:
    """A LoRA with modules of every kind: linear layers, convolutions and normalisations of UNet and text encoders."""
    tensors = {}
    biased = {key.removesuffix(".bias") for key in _shapes(checkpoint) if key.endswith(".bias")}
    sharing: dict[str, list[Module]] = {}
    for module in modules_of(checkpoint):
        sharing.setdefault(str(module.output_name), []).append(module)
    for number, (name, [module, *others]) in enumerate(sharing.items()):
        if module.kind == "norm" and number % 3 == 0:
            # Forge Neo refuses a LoRA of which more than a quarter changes what the model does not have.
            parts = "wb" if module.name in biased else "w"
            tensors |= {f"{name}.{part}_norm": 0.05 * torch.ones(module.shape) for part in parts}
        # Whole attentions: some programs load their parts only together.
        elif module.kind in ("linear", "convolution") and ("self_attn" in module.position.role or number % 3 == 0):
            # Modules whose weights are rows of one have one update in common.
            rows = sum(it.shape[0] for it in (module, *others))
            tensors |= tiny.factors(name, (rows, *module.shape[1:]), 4, seed=number, size=0.02)
    path.parent.mkdir(exist_ok=True)
    save_file({key: t.contiguous() for key, t in tensors.items()}, path, {"ss_output_name": path.stem})


def lora_for(checkpoint: Path, path: Path, *, first: int = 0, every: int = 9, size: float = 0.1) -> None:
    """A strong LoRA on a few modules of ``checkpoint``, which names it as what it was trained on."""
    found = [module for module in modules_of(checkpoint) if module.kind == "linear"]
    chosen = [m for m in found if m.position.role.startswith(("attn2", "self_attn"))][first::every]
    tensors = {}
    for number, module in enumerate(chosen):
        tensors |= tiny.factors(str(module.output_name), module.shape, 4, seed=number, size=size)
    metadata = {
        "ss_sd_model_name": checkpoint.name,
        "ss_new_sd_model_hash": sha256(checkpoint),
        "ss_base_model_version": architecture_of(checkpoint).base_model_version,
        "ss_output_name": path.stem,
    }
    path.parent.mkdir(exist_ok=True)
    save_file({key: t.contiguous() for key, t in tensors.items()}, path, metadata)


def architecture_of(checkpoint: Path) -> Architecture:
    return recognise(_shapes(checkpoint))


def modules_of(checkpoint: Path) -> list[Module]:
    """Those that the programs load a LoRA on."""
    found = modules(architecture_of(checkpoint), _shapes(checkpoint))
    return [module for module in found if module.output_name]


def _shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    return {key: info.shape for key, info in read_header(checkpoint).tensors.items()}


def _put_extension(place: Path) -> None:
    place.mkdir(parents=True)
    for name in EXTENSION:
        whole = ROOT / name
        if whole.is_dir():
            shutil.copytree(whole, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(whole, place / name)
