"""``python3 -m tests``: run every test, each with the versions that it is about, in environments made here from nothing.

    python3 -m tests                      all environments
    python3 -m tests current -k rotation  one environment; the rest goes to pytest
    python3 -m tests demo                 not a test: the demo, in an environment with what the product needs

Needs Python 3.10 or newer with venv, and a package index. The browser tests need Chromium, which is installed with apt-get
where that is possible, and axe-core, which is fetched from the npm registry once. Uses the standard library only.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".environments"
REQUIREMENTS = ROOT / "tests" / "requirements"
PYTEST = ["-m", "pytest"]

# The programs' environments have today's torch, but an older safetensors and an older numpy. What meets these is run there too:
# reading and writing files, bytes of tensors, and the page, which transfers whole LoRAs.
OLDER = [
    *("tests/webui", "tests/formats/test_writer.py", "tests/formats/test_annotate.py", "tests/formats/test_publish.py"),
    *("tests/formats/stores", "--ignore-glob=*_hostile_*", "--ignore-glob=*_gguf_*", "--ignore-glob=*_torch_*"),
    *("tests/conversion/test_cache.py", "tests/conversion/test_spool.py"),
]
# About half of what the newest versions are tested with: whole transfers, and processes.
WHOLE = ["tests/cli", "tests/transfer"]
# Forge and Forge Neo have one gradio, and so one page: it is opened with the newer versions beside it, and with the older ones
# only so far that what they differ in is met (requests, and a whole transfer). Forge Neo's Pillow reads and writes previews.
PAGE = ["access", "batch", "choice", "compare", "limits", "loading", "results", "settings_page", "verify", "waiting"]
NEO = [f"tests/webui/test_{name}.py" for name in (*PAGE, "previews", "safety", "tab")]
FORGE = ["tests/webui", *(f"--ignore=tests/webui/test_{name}.py" for name in (*PAGE, "previews"))]
# Environment and what follows ``python``, the longest first: whoever is free takes the next one.
STEPS: list[tuple[str, list[str]]] = [
    ("current", [*PYTEST, *WHOLE]),
    ("a1111", [*PYTEST, *OLDER]),
    ("neo", [*PYTEST, *NEO]),
    ("forge", [*PYTEST, *FORGE]),
    ("current", [*PYTEST, *(f"--ignore={folder}" for folder in WHOLE)]),
    ("current", ["-m", "mypy"]),
    ("current", ["-m", "ruff", "check", "."]),
    ("current", ["-m", "ruff", "format", "--check", "."]),
]
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
# The tests start many processes, and each would compile the package again.
ENVIRONMENT["PYTHONDONTWRITEBYTECODE"] = ""
PROGRAMS = ("a1111", "forge", "neo")
"""The environments that have gradio, and so the browser tests."""
SHARED = "torch"
"""The environment whose packages all others see behind their own, so that the largest of them is installed once."""
AXE_VERSION, AXE_SHA256 = "4.14.1", "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
"""The checker of accessibility that the browser tests run in the page, and the hash of its package."""
AXE = ENVIRONMENTS / f"axe-core-{AXE_VERSION}.js"
MAKING = {name: Lock() for name in (SHARED, "browser", "demo", *(name for name, _ in STEPS))}


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; returns the exit code."""
    if sys.version_info < (3, 10):  # noqa: UP036 - said in words instead of a syntax error
        print("Python 3.10 or newer is needed; this is", sys.version.split()[0])
        return 1
    if arguments and arguments[0] == "demo":
        return run("demo", ["-m", "lib_transfer", "demo", *arguments[1:]])
    if arguments and arguments[0] in {name for name, _ in STEPS}:
        if arguments[0] in PROGRAMS:
            need_axe()
        return run(arguments[0], [*PYTEST, *arguments[1:]])
    if arguments:
        print(__doc__)
        return 1
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        codes = list(pool.map(lambda step: run_beside_others(*step), STEPS))
    failed = [step for step, code in zip(STEPS, codes, strict=True) if code != 0]
    for name, step in failed:
        print("FAILED:", name, *step)
    return 1 if failed else 0


def run_beside_others(name: str, step: Sequence[str]) -> int:
    """Run one of several steps that run at a time, with what it needs besides its environment."""
    if name in PROGRAMS:
        with MAKING["browser"]:
            need_chromium()
            need_axe()
    return run(name, step, together=True)


def run(name: str, step: Sequence[str], *, together: bool = False) -> int:
    """Run ``python *step`` in the environment ``name``, made first if need be.

    Args:
        name: the environment.
        step: what follows ``python``.
        together: whether the output is shown in one piece at the end, because other steps run beside this one.
    """
    python = environment(name)
    if python is None:
        return 1
    print(f"[{name}] python {' '.join(step)}", flush=True)
    settings = {**os.environ, **ENVIRONMENT}
    if together:
        # Threads that wait for a processor others have take many times as long on small tensors.
        settings["OMP_NUM_THREADS"] = "1"
    command, began = [str(python), *step], time.monotonic()
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if together else {}
    done = subprocess.run(command, cwd=ROOT, env=settings, check=False, text=True, errors="replace", **output)
    if not together:
        return done.returncode
    print(f"[{name}] python {' '.join(step)}: {time.monotonic() - began:.0f} s\n{done.stdout}", end="", flush=True)
    return done.returncode


def environment(name: str) -> Path | None:
    """The python of the environment ``name``; None, with the reason on the screen, where it cannot be made."""
    shared = None if name == SHARED else environment(SHARED)
    if shared is None and name != SHARED:
        return None
    folder, requirements = ENVIRONMENTS / name, REQUIREMENTS / f"{name}.txt"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # Packages of which only a part is needed, or that are newer than another one's bounds.
    afterwards = [path for path in (REQUIREMENTS / f"{name}-afterwards.txt",) if path.exists()]
    wanted = b"".join(path.read_bytes() for path in (requirements, *afterwards, REQUIREMENTS / f"{SHARED}.txt"))
    mark, stamp = hashlib.sha256(wanted + sys.version.encode()).hexdigest(), folder / "requirements.sha256"
    with MAKING[name]:
        if python.exists() and stamp.exists() and stamp.read_text() == mark:
            return python
        print(f"[{name}] making an environment in {folder} (some minutes) ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r"]
        if not succeeds(name, [sys.executable, "-m", "venv", str(folder)]):
            return None
        if shared is not None:
            (packages(python) / "shared.pth").write_text(str(packages(shared)))
        if not succeeds(name, [*pip, str(requirements)]):
            return None
        if not all(succeeds(name, [*pip, str(path), "--no-deps"]) for path in afterwards):
            return None
        stamp.write_text(mark)
    return python


def packages(python: Path) -> Path:
    """The folder where the packages of an environment are."""
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())


def succeeds(name: str, command: Sequence[str]) -> bool:
    """Run a command of making the environment ``name``; where it fails, what it said is put on the screen."""
    patient = {"PIP_DEFAULT_TIMEOUT": "60", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=patient)
    if done.returncode != 0:
        print(f"The environment {name} cannot be made; this failed: {' '.join(command)}")
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
    return done.returncode == 0


def need_chromium() -> None:
    """Install Chromium for the browser tests, where there is none and apt-get is at hand."""
    found = any(map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome")))
    if found or not shutil.which("apt-get"):
        return
    print("Installing Chromium for the browser tests ...", flush=True)
    install = ["apt-get", "install", "-y", "--no-install-recommends", "fonts-dejavu-core"]

    def done(*command: str) -> bool:
        quiet = {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, check=False, **quiet).returncode == 0

    # Not every distribution has the lighter one.
    if not (done("apt-get", "update") and any(done(*install, f"chromium{kind}") for kind in ("-headless-shell", ""))):
        print("Chromium could not be installed; the browser tests will fail and say so.")


def need_axe() -> None:
    """Fetch axe-core for the browser tests, where it is not there yet."""
    if AXE.exists():
        return
    address = f"https://registry.npmjs.org/axe-core/-/axe-core-{AXE_VERSION}.tgz"
    print(f"Fetching {address} for the browser tests ...", flush=True)
    try:
        with urllib.request.urlopen(address, timeout=60) as reply:
            package = reply.read()
        if hashlib.sha256(package).hexdigest() != AXE_SHA256:
            raise OSError("its SHA-256 is another than expected")
        with tarfile.open(fileobj=io.BytesIO(package)) as files:
            script = files.extractfile("package/axe.min.js").read()
    except OSError as error:
        print(f"axe-core could not be fetched ({error}); the test of accessibility will fail and say so.")
        return
    ENVIRONMENTS.mkdir(exist_ok=True)
    # Whole or not at all, also where two runs fetch it at a time.
    part = AXE.with_suffix(f".{os.getpid()}")
    part.write_bytes(script)
    part.replace(AXE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
