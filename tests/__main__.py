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
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".environments"
REQUIREMENTS = ROOT / "tests" / "requirements"
PYTEST = ["-m", "pytest"]

# What is run in each environment, in this order.
STEPS: dict[str, list[list[str]]] = {
    "current": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"], PYTEST],
    "a1111": [PYTEST],
    "forge": [[*PYTEST, "tests/webui"]],
}


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
    failed = [" ".join([name, *step]) for name, steps in STEPS.items() for step in steps if run(name, step) != 0]
    for step in failed:
        print("FAILED:", step)
    return 1 if failed else 0


def run(name: str, step: Sequence[str]) -> int:
    """Run ``python *step`` in the environment ``name``, made first if need be."""
    python = environment(name)
    if python is None:
        return 1
    print(f"[{name}] python {' '.join(step)}", flush=True)
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    return subprocess.run([python, *step], cwd=ROOT, env={**os.environ, **settings}, check=False).returncode


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
