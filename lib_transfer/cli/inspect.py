"""``inspect``: what a file is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lib_transfer.library.inspection import inspect


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a checkpoint or a LoRA; or a folder with a diffusers model or with an adapter of PEFT's",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what the file is."""
    found = inspect(options.file)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    for name, value in found.items():
        words = " ".join(value) if name == "notes" else _words(value)
        if name != "schema" and words:
            print(f"{name.replace('_', ' ')}: {words}")
    return 0


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
