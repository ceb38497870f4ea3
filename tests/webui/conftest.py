"""A browser, and the tab in servers of its own. Where there is no gradio, nothing of this folder is collected."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import HANG, until

try:
    GRADIO = importlib.metadata.version("gradio")
except importlib.metadata.PackageNotFoundError:
    GRADIO = None

if GRADIO is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.webui import models
    from tests.webui.driver import Tab
    from tests.webui.programs import Program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

    from tests.webui.generations import Generations
    from tests.webui.real import WebUI

ROOT = Path(__file__).resolve().parents[2]
FORGE = GRADIO is not None and int(GRADIO.partition(".")[0]) >= 4
"""Forge has gradio 4, A1111 gradio 3; the stand-in for each is tested where its gradio is."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("a real WebUI")
    group.addoption("--webui", type=Path, help="folder of an installed A1111 or Forge to run the tab in")
    group.addoption("--webui-python", type=Path, help="its python (DIR/venv/bin/python)")
    group.addoption("--webui-models", type=Path, help="a folder with two checkpoints of one architecture (its own)")
    group.addoption("--webui-modules", type=Path, help="a folder with the text encoders and the VAE that they lack")
    group.addoption("--webui-extension", type=Path, help="another extension to put beside this one")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without a WebUI to run in, its tests are none of these."""
    # The options are known only where pytest was given this folder.
    return True if collection_path.name.startswith("test_real_") and not config.getoption("webui", None) else None


@dataclass
class Server:
    """A running standalone server.

    While the file ``hold`` exists, jobs stand still within a module.
    """

    url: str
    models: Path
    hold: Path
    process: subprocess.Popen[bytes]

    @property
    def drawn(self) -> list[list[Any]]:
        """What every picture so far was made of: prompt, negative prompt, sampler, seed, steps, checkpoint."""
        log = self.hold.with_suffix(".drawn")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def loaded(self) -> list[str]:
        """The checkpoints that were brought into memory so far, and when the person's own came back."""
        log = self.hold.with_suffix(".loaded")
        return log.read_text().splitlines() if log.exists() else []

    def wait_for_loads(self, known: int) -> None:
        """Wait until there are more than ``known`` entries in :attr:`loaded`."""
        until(lambda: len(self.loaded) > known)

    @property
    def loras(self) -> Path:
        return self.models / "Lora"

    def files(self) -> set[str]:
        """Names of everything in the LoRA folder."""
        return {path.relative_to(self.loras).as_posix() for path in self.loras.rglob("*") if path.is_file()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """The real WebUI, which runs; its LoRA folder has one LoRA that was trained on its ``source``."""
    from tests.webui.real import WebUI, lora_for, wide_lora_for

    folder = request.config.getoption("--webui").resolve()
    python = request.config.getoption("--webui-python") or folder / "venv" / "bin" / "python"
    checkpoints = request.config.getoption("--webui-models") or folder / "models" / "Stable-diffusion"
    beside = (request.config.getoption(f"--webui-{name}") for name in ("modules", "extension"))
    made = WebUI(folder, python, checkpoints, tmp_path_factory.mktemp("webui"), free_port(), *beside)
    lora_for(made.source, made.loras / "learned.safetensors")
    wide_lora_for(made.source, made.loras / "beside" / "wide.safetensors")
    try:
        made.start()
        yield made
        assert "transfer_lora.py" not in made.said, made.said[made.said.index("transfer_lora.py") - 200 :][:3000]
        assert "Transfer LoRA will not work" not in made.said
    finally:
        made.stop()


@pytest.fixture(params=[FORGE], ids=["forge" if FORGE else "a1111"])
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """A stand-in for each program, and nothing left of an earlier one."""
    from lib_transfer.webui.app import extension

    def forget() -> None:
        extension.events.cache_clear()
        extension.prompts.cache_clear()

    forget()
    yield Program(tmp_path, monkeypatch, forge=request.param)
    forget()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two relatives of a checkpoint, and one of another family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    models.checkpoints(folder)
    return folder / "Stable-diffusion"


@pytest.fixture
def made(program: Program, checkpoints: Path) -> Generations:
    """A program with three related checkpoints, of which ``tuned`` is chosen, and the LoRA ``cat`` trained on ``base``."""
    from tests.webui.generations import Generations

    place = program.folder / "models" / "Stable-diffusion"
    place.mkdir()
    for name in (models.BASE, models.TUNED, models.VARIED):
        os.link(checkpoints / name, place / name)
        program.add(place / name)
    models.lora(program.folder / "models", "cat")
    generations = Generations(program)
    generations.choose(models.TUNED)
    return generations


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Server]]:
    """A function that starts a server on a models folder; all are stopped at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, before: Server | None = None) -> Server:
        """A server on ``folder``; where there was one before, on its port and with its cache."""
        place = tmp_path_factory.mktemp("server") if before is None else before.hold.parent
        port = free_port() if before is None else int(before.url.rstrip("/").rpartition(":")[2])
        hold, log = place / "hold", place / "log"
        command = [sys.executable, "-m", "tests.webui.held_server", str(hold), "ui", "--models-dir", str(folder)]
        command += ["--cache-dir", str(place / "cache"), "--port", str(port), "--no-browser"]
        environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        running.append(process)
        url = f"http://127.0.0.1:{port}/"

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            return _answers(url + "config")

        until(answers, every=0.1)
        return Server(url, folder, hold, process)

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(HANG)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=HANG) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def server(serve: Callable[[Path], Server], checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server on two related SD1 checkpoints, an SDXL one, and no LoRA but those that tests put there."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(checkpoints, folder / "Stable-diffusion")
    (folder / "Lora").mkdir()
    return serve(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    # The one without a window of its own takes half of the processor time.
    known = ("chromium-headless-shell", "chromium", "google-chrome")
    chromium = next(filter(None, map(shutil.which, known)), None)
    assert chromium, "The browser tests need Chromium: apt-get install chromium fonts-dejavu-core"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], timeout=1000 * HANG
        )
        yield opened
        opened.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """A function that opens the tab in a new window.

    At the end no script of any page may have failed (with ``ours``: none of ours, because a WebUI has scripts of its own),
    and none may have asked anyone but its server (gradio's own iframe-resizer is stopped on the way).
    """
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_window(url: str, *, theme: str = "light", width: int = 1280, ours: bool = False) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(1000 * HANG)
        contexts.append(context)

        def gate(route, request) -> None:
            if request.url.startswith((url, "data:", "blob:")):
                route.continue_()
                return
            if "iframe-resizer" not in request.url:
                problems.append(f"asked for {request.url}")
            route.abort()

        context.route("**/*", gate)
        page = context.new_page()

        def failed(error) -> None:
            if not ours or "transfer_lora" in str(error.stack):
                problems.append(f"script error: {error} {error.stack}")

        page.on("pageerror", failed)
        page.goto(f"{url}?__theme={theme}", wait_until="domcontentloaded")
        return Tab(page)

    yield open_window
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def tab(window: Callable[..., Tab], server: Server) -> Iterator[Tab]:
    """The tab on the common server; jobs that are held are let go at the end."""
    yield window(server.url).ready()
    server.hold.unlink(missing_ok=True)
