"""``transfer``: the main job."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lib_transfer import api, methods
from lib_transfer.cli import terminal
from lib_transfer.conversion.heatmap import draw, save, transfer_panels
from lib_transfer.conversion.jobs import analyse, transfer
from lib_transfer.conversion.report import TransferReport
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.library.destination import Destination
from lib_transfer.library.job import Job
from lib_transfer.methods import METHODS, Parameter, Value
from lib_transfer.version import SCHEMA


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="the LoRA (.safetensors, .pt)")
    again = "; again for a text encoder in a file of its own"
    parser.add_argument(
        "--source", type=Path, action="append", metavar="CKPT", help=f"the checkpoint it was trained on{again}"
    )
    parser.add_argument(
        "--target", type=Path, action="append", metavar="CKPT", required=True,
        help=f"the checkpoint it is to work on{again}",
    )  # fmt: skip
    add_method(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--output", type=Path, metavar="FILE", help="the file to write")
    output.add_argument("--output-dir", type=Path, metavar="DIR", help="the folder to write to (the LoRA's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace an output of ours that differs")
    parser.add_argument("--dry-run", action="store_true", help="report what would come through, write no LoRA")
    terminal.add_reports(parser, "the whole report", plot=True)
    terminal.add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    terminal.check_reports(options)
    runtime = terminal.runtime(options)
    job = api.request(
        options.adapter,
        target=options.target,
        source=options.source,
        method=options.method,
        runtime=runtime,
        **settings(options),
    )
    report, facts = _dry_run(job, runtime, options) if options.dry_run else _transfer(job, runtime, options)
    if report is None and (options.json or options.plot):
        report = analyse(job, runtime=runtime, progress=terminal.Bar())
    if report is not None:
        if options.json:
            terminal.write_json(options.json, {"schema": SCHEMA, **facts, "report": report.to_dict()})
        if options.plot:
            title = f"{job.request.adapter_name} to {job.request.target_name}"
            save(draw(transfer_panels(report.modules), title), options.plot)
    return 2 if facts["status"] == "nothing carried" else 0


def _dry_run(job: Job, runtime: Runtime, options: argparse.Namespace) -> tuple[TransferReport, dict[str, Any]]:
    report = analyse(job, runtime=runtime, progress=terminal.Bar())
    print(report.to_text(), file=terminal.talk(options.json))
    return report, {"status": "analysed", "output": None, "sidecars": [], "warnings": [], "request": report.request}


def _transfer(job: Job, runtime: Runtime, options: argparse.Namespace) -> tuple[TransferReport | None, dict[str, Any]]:
    destination = Destination(folder=options.output_dir, file=options.output, overwrite=options.overwrite)
    result = transfer(job, destination, runtime=runtime, progress=terminal.Bar())
    lines = [] if result.report is None else [result.report.to_text(), ""]
    if result.path is not None:
        lines.append(f"{'Already done' if result.status == 'already done' else 'Written'}: {result.path}")
        lines += [f"  with {path.name}" for path in result.sidecars] + [f"  {text}" for text in result.warnings]
    print("\n".join(lines), file=terminal.talk(options.json))
    return result.report, {
        "status": result.status,
        "output": None if result.path is None else str(result.path),
        "sidecars": [str(path) for path in result.sidecars],
        "warnings": list(result.warnings),
        "request": json.loads(job.request.to_json()),
    }


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add ``--method`` and a flag for every setting that some method declares."""
    parser.add_argument(
        "--method",
        default=methods.DEFAULT,
        metavar="METHOD",
        help=f"{', '.join(m.id for m in METHODS)} (default {methods.DEFAULT}; see the command methods)",
    )
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting that some method declares."""
    group = parser.add_argument_group("settings of the methods")
    for parameter, ids in declared().items():
        flag = "--" + parameter.name.replace("_", "-")
        of = "" if len(ids) == len(METHODS) else f" [{', '.join(ids)}]"
        default = "" if parameter.default in (None, False) else f" (default {parameter.default})"
        text = f"{parameter.help}{default}{of}".replace("%", "%%")
        if parameter.kind == "flag":
            group.add_argument(flag, action="store_const", const=True, help=text)
        else:
            group.add_argument(flag, metavar=_metavar(parameter), help=text)


def declared() -> dict[Parameter, list[str]]:
    """Every parameter with the ids of the methods that have it."""
    found: dict[Parameter, list[str]] = {}
    for method in METHODS:
        for parameter in methods.parameters(method):
            found.setdefault(parameter, []).append(method.id)
    return found


def settings(options: argparse.Namespace) -> dict[str, Value]:
    """The settings given on the command line; the method checks them."""
    return {p.name: value for p in declared() if (value := getattr(options, p.name, None)) is not None}


def _metavar(parameter: Parameter) -> str:
    words = [*parameter.choices, *({"number": ["F"], "whole": ["N"], "rank": ["N"]}.get(parameter.kind, []))]
    return "|".join(words)
