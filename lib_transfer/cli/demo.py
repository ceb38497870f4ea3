"""``demo``: the whole way on small files made on the spot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_transfer import demo
from lib_transfer.api import request
from lib_transfer.cli import terminal, ui
from lib_transfer.conversion.heatmap import draw, save, transfer_panels
from lib_transfer.conversion.jobs import transfer
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import RequestError
from lib_transfer.library.destination import Destination

METHODS = ("rotation", "prolora")


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--dir", type=Path, default=Path("demo"), help="the folder for all files (default demo)")
    text = "open the tab on these files instead of transferring them (needs gradio)"
    parser.add_argument("--ui", action="store_true", help=text)
    ui.add_server(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the files and transfer the LoRAs."""
    folder: Path = options.dir
    print(f"Making a small SDXL checkpoint, a fine-tune, a pruned relative and two LoRAs in {folder} ...")
    files = demo.make(folder)
    if options.ui:
        ui.serve(files.models, options, folder / "cache")
        return 0
    runtime = Runtime(cache_folder=folder / "cache")
    jobs = [(files.style, files.fine_tune, method) for method in METHODS]
    jobs += [(files.style, files.pruned, "rotation"), (files.locon, files.fine_tune, "rotation")]
    for adapter, target, method in jobs:
        print(f"\n=== {adapter.stem}: from {files.base.stem} to {target.stem} by {method} ===")
        job = request(adapter, source=files.base, target=target, method=method, runtime=runtime)
        result = transfer(job, Destination(overwrite=True), runtime=runtime, progress=terminal.Bar())
        if result.report is not None:
            print(result.report.to_text())
            _plot(folder / f"{adapter.stem}-{target.stem}-{method}.png", result.report)
        print(f"{'Already done' if result.status == 'already done' else 'Written'}: {result.path}")
    print("\nThe numbers of these files are made up: they show what the program does, not what a transfer is worth.")
    return 0


def _plot(path: Path, report: Any) -> None:
    try:
        save(draw(transfer_panels(report.modules), path.stem), path)
        print(f"Heat map: {path}")
    except RequestError as error:
        print(error)
