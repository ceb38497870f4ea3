"""``python3 -m tests``: run every test, each in an environment of its own, made here from nothing.

    python3 -m tests                      all environments
    python3 -m tests current -k rotation  one environment; the rest goes to pytest
    python3 -m tests demo                 not a test: the demo, in an environment with what the product needs

Needs Python 3.10 or newer with venv, and a package index. The browser tests need Chromium, which is installed with apt-get
where that is possible. Uses the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".environments"
REQUIREMENTS = ROOT / "tests" / "requirements"
PYTEST = ["-m", "pytest"]

# What is run in each environment, in this order. The programs' environments have today's torch, but an older safetensors and an
# older numpy: what depends on neither is run in one environment only.
PURE = [
    f"--ignore=tests/{folder}" for folder in ("architecture", "linalg", "methods", "batches", "models", "evaluation")
]
STEPS: dict[str, list[list[str]]] = {
    "current": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"], PYTEST],
    "a1111": [[*PYTEST, *PURE]],
    "forge": [[*PYTEST, "tests/webui"]],
}
# Environments that are worked through one after the other; the rows side by side.
ROWS = [["current", "forge"], ["a1111"]]


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; returns the exit code."""
    if sys.version_info < (3, 10):  # noqa: UP036 - said in words instead of a syntax error
        print("Python 3.10 or newer is needed; this is", sys.version.split()[0])
        return 1
    if arguments and arguments[0] == "demo":
        return run("demo", ["-m", "lib_transfer", "demo", *arguments[1:]])
    if arguments and arguments[0] in STEPS:
        return run(arguments[0], [*PYTEST, *arguments[1:]])
    if arguments:
        print(__doc__)
        return 1
    need_chromium()
    with ThreadPoolExecutor(len(ROWS)) as pool:
        failed = [step for steps in pool.map(run_row, ROWS) for step in steps]
    for step in failed:
        print("FAILED:", step)
    return 1 if failed else 0


def run_row(names: Sequence[str]) -> list[str]:
    """Run every step of these environments, one after the other; returns those that failed."""
    failed = []
    for name in names:
        for step in STEPS[name]:
            done = run(name, step, together=True)
            failed += [" ".join([name, *step])] if done != 0 else []
    return failed


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
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    if together:
        # Threads that wait for a processor others have take many times as long on small tensors.
        settings["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // len(ROWS), 1))
    command, began = [str(python), *step], time.monotonic()
    if not together:
        return subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=False).returncode
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    print(f"[{name}] python {' '.join(step)}: {time.monotonic() - began:.0f} s\n{done.stdout}", end="", flush=True)
    return done.returncode


def environment(name: str) -> Path | None:
    """The python of the environment ``name``; None, with the reason on the screen, where it cannot be made."""
    folder, requirements = ENVIRONMENTS / name, REQUIREMENTS / f"{name}.txt"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    mark = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / "requirements.sha256"
    if python.exists() and stamp.exists() and stamp.read_text() == mark:
        return python
    print(f"[{name}] making an environment in {folder} (some minutes) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r", str(requirements)]
    for command in ([sys.executable, "-m", "venv", str(folder)], pip):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"The environment {name} cannot be made; this failed: {' '.join(command)}")
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
            return None
    stamp.write_text(mark)
    return python


def need_chromium() -> None:
    """Install Chromium for the browser tests, where there is none and apt-get is at hand."""
    if shutil.which("chromium") or not shutil.which("apt-get"):
        return
    print("Installing Chromium for the browser tests ...", flush=True)
    packages = ["chromium", "fonts-dejavu-core"]
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
        if subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False).returncode != 0:
            print("Chromium could not be installed; the browser tests will fail and say so.")
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
