"""``transfer``: the main job."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_transfer import methods
from lib_transfer.batches.convert import analysed, convert
from lib_transfer.batches.folders import checked_settings
from lib_transfer.batches.task import Task
from lib_transfer.batches.watch import ProgressWatch
from lib_transfer.cli import terminal
from lib_transfer.conversion.heatmap import draw, save, transfer_panels
from lib_transfer.conversion.jobs import analyse
from lib_transfer.conversion.outcome import Outcome, settled
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import RequestError, TransferError
from lib_transfer.evaluation.runs import expected_cost
from lib_transfer.evaluation.verification import INPUTS
from lib_transfer.formats.metadata import PREFIX
from lib_transfer.formats.peft_folder import adapter_file, adapter_name
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import described
from lib_transfer.library.decide import Convert, Done, TransferSettings, decide
from lib_transfer.library.destination import Existing, need_folder
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.methods import METHODS, Method, Parameter, Value
from lib_transfer.version import SCHEMA


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "adapter", type=Path, metavar="ADAPTER", help="the LoRA (.safetensors, .pt, or a folder of PEFT's)"
    )
    again = "; repeat the option for a text encoder in a file of its own"
    parser.add_argument(
        "--source", type=Path, action="append", metavar="CKPT", help=f"the checkpoint that it was trained on{again}"
    )
    parser.add_argument(
        "--target", type=Path, action="append", metavar="CKPT", required=True,
        help=f"the checkpoint that it is transferred to{again}",
    )  # fmt: skip
    add_method(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--output", type=Path, metavar="FILE", help="the file to write")
    output.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="the folder to write to (default: the LoRA's own folder)"
    )
    text = "replace an output of Transfer LoRA that differs; other files are never replaced"
    parser.add_argument("--overwrite", action="store_true", help=text)
    parser.add_argument("--dry-run", action="store_true", help="report what would be transferred, write no LoRA")
    terminal.add_reports(parser, "the whole report", plot=True)
    terminal.add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        TransferError: the LoRA was not transferred, and why.
    """
    terminal.check_reports(options)
    outcome = _outcome(options, terminal.runtime(options))
    if outcome.status in ("failed", "left out"):
        error = TransferError(outcome.message, hint=outcome.hint)
        error.exit_code = outcome.exit_code or error.exit_code
        raise error
    report = outcome.report
    lines = [] if report is None or outcome.status == "already done" else [report.to_text()]
    if outcome.status == "nothing carried" and outcome.message:
        lines += ["Nothing was written.", f"  {outcome.message}"]
    if outcome.path is not None:
        lines += ["", f"{'Already done' if outcome.status == 'already done' else 'Written'}: {outcome.path}"]
    if outcome.status == "already done" and outcome.accounts is not None:
        lines += [f"  {line}" for line in outcome.accounts.told]
    lines += [f"  with {path.name}" for path in outcome.sidecars] + [f"  {text}" for text in outcome.notes]
    print("\n".join(lines).lstrip("\n"), file=terminal.talk(options.json))
    if options.json:
        terminal.write_json(options.json, _facts(outcome))
    if options.plot:
        assert report is not None
        title = f"{report.request['adapter']['name']} to {report.request['target']['name']}"
        save(draw(transfer_panels(report.modules), title), options.plot)
    return 2 if outcome.status == "nothing carried" else 0


def _outcome(options: argparse.Namespace, runtime: Runtime) -> Outcome:
    """What becomes of the LoRA; with a report where one is to be written."""
    index, target = FileIndex(runtime.cache.folder), described(options.target, runtime.hashes)
    progress = terminal.Bar()
    # An analysis is made whether or not there is an output.
    outputs = None if options.dry_run else Outputs(index)
    library = Library(index, runtime.hashes, outputs=outputs, progress=progress)
    file = adapter_file(options.adapter)
    adapter = Found(adapter_name(file), file)
    decision = decide(adapter, target, _asked(options, runtime), library, thorough=True)
    runs_models = methods.get(options.method).runs_models
    if not isinstance(decision, Convert):
        outcome = settled(adapter.name, target, decision)
    elif options.dry_run:
        outcome = analysed(decision, runtime, progress)
    else:
        if runs_models:
            budget = int(decision.settings.values["runs"] or 0)
            print(expected_cost(INPUTS, 0, imitating=True, budget=budget), file=terminal.talk(options.json))
        [outcome] = convert(Task((decision,), runtime, keeps_reports=True), ProgressWatch(progress))
    again = outcome.status == "already done" and (options.json or options.plot) and not runs_models
    if again and isinstance(decision, Convert | Done):
        job = decision.job if isinstance(decision, Done) else decision.job(runtime.hashes, progress)
        return replace(outcome, report=analyse(job, runtime=runtime, progress=progress))
    return outcome


def _asked(options: argparse.Namespace, runtime: Runtime) -> TransferSettings:
    hint = "Name it with --source, or take the method reuse, which does without."
    need_source(methods.get(options.method), options.source, hint)
    if methods.get(options.method).runs_models and (options.dry_run or options.plot):
        raise RequestError(
            "What running the models comes to is known only afterwards.",
            hint="Take a method that looks at the weights alone for --dry-run and --plot.",
        )
    existing: Existing = "overwrite" if options.overwrite else "skip"
    asked = checked_settings(options.method, settings(options), options.source, options.output_dir, existing, runtime)
    if options.output:
        need_folder(options.output.parent)
    return replace(asked, file=options.output, across_families=True)


def _facts(outcome: Outcome) -> dict[str, Any]:
    """The outcome for JSON; where models were run and there is no report, what the output says of itself."""
    report = outcome.report
    request = None if report is None else report.request
    if request is None and outcome.path is not None:
        request = json.loads(read_header(outcome.path).metadata[f"{PREFIX}request"])
    return {
        "schema": SCHEMA,
        "status": outcome.status,
        "output": None if outcome.path is None else str(outcome.path),
        "sidecars": [str(path) for path in outcome.sidecars],
        "warnings": list(outcome.notes),
        "request": request,
        "report": dict(outcome.facts) if report is None else report.to_dict(),
    }


def need_source(method: Method, given: object, hint: str) -> None:
    """Raise :class:`RequestError` where ``method`` needs a source and none is ``given``."""
    if method.needs_source and not given:
        raise RequestError(f'The method "{method.id}" needs the checkpoint that the LoRA was trained on.', hint=hint)


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add ``--method`` and a flag for every setting that some method declares."""
    parser.add_argument(
        "--method",
        default=methods.DEFAULT,
        metavar="METHOD",
        help=f'one of {", ".join(m.id for m in METHODS)} (default {methods.DEFAULT}); the command "methods" explains them',
    )
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting that some method declares."""
    group = parser.add_argument_group("settings of the methods")
    for parameter, ids in declared().items():
        flag = "--" + parameter.name.replace("_", "-")
        of = "" if len(ids) == len(METHODS) else f" [{', '.join(ids)}]"
        default = "" if parameter.default in (None, False, "") else f" (default {parameter.default})"
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
    kinds = {"number": ["F"], "whole": ["N"], "rank": ["N"], "text": ["TEXT"]}
    words = [*parameter.choices, *kinds.get(parameter.kind, [])]
    return "|".join(words)
