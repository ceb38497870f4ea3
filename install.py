"""Run by the WebUI at every start, before anything else. Changes no package; says in one line what is wrong."""

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

NEEDED = {"torch": (2, 1), "safetensors": (0, 4), "gradio": (3, 41)}


def problems() -> "list[str]":
    """What this installation lacks, in words; empty where nothing is missing."""
    found = [] if sys.version_info >= (3, 10) else [f"Python {sys.version.split()[0]} is older than 3.10"]
    for name, least in NEEDED.items():
        if importlib.util.find_spec(name) is None:
            found.append(f"{name} is missing")
        elif (have := installed(name)) and have < least:
            found.append(f"{name} {'.'.join(map(str, have))} is older than {'.'.join(map(str, least))}")
    if importlib.util.find_spec("gradio") and (have := installed("gradio")) and have[0] > 4:
        found.append(f"gradio {have[0]} is not known to work")
    return found


def installed(name: str) -> "tuple[int, ...]":
    """The first two numbers of a package's version; empty where it does not say."""
    try:
        return tuple(int(part) for part in version(name).split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return ()


if __name__ == "__main__" and problems():
    print(f"Transfer LoRA will not work: {'; '.join(problems())}. Update the WebUI.")
