"""``convert``: make LoRAs load, by other names and another layout for the same numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_transfer.batches.loadable import make_loadable
from lib_transfer.cli import terminal
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import TransferError
from lib_transfer.formats.peft_folder import CONFIG, WEIGHTS, adapter_file, adapter_name
from lib_transfer.library.adapters import Found, find
from lib_transfer.library.checkpoints import described
from lib_transfer.library.destination import need_folder
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.library.own_base import staying
from lib_transfer.version import SCHEMA


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    text = "LoRAs (.safetensors, .pt, folders of PEFT's), or folders of LoRAs"
    parser.add_argument("adapters", type=Path, nargs="+", metavar="FILE|FOLDER", help=text)
    on = parser.add_mutually_exclusive_group()
    text = "the id of the base that they are for, where a file does not tell (anima, sdxl, z-image, ...)"
    on.add_argument("--base", default="", metavar="ID", help=text)
    text = "a checkpoint that they work on, for what cannot be written without its weights"
    on.add_argument("--target", type=Path, metavar="CKPT", help=text)
    parser.add_argument("--recursive", action="store_true", help="look into the sub-folders of folders, too")
    text = "the folder to write to (default: the folder of each LoRA)"
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help=text)
    text = "replace an output of Transfer LoRA that differs; other files are never replaced"
    parser.add_argument("--overwrite", action="store_true", help=text)
    parser.add_argument("--dry-run", action="store_true", help="report what would be written, write nothing")
    terminal.add_reports(parser, "what became of each LoRA")
    terminal.add_cache_folder(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        TransferError: the only LoRA was not converted, and why; or the options are wrong.
    """
    terminal.check_reports(options)
    if options.output_dir is not None:
        need_folder(options.output_dir)
    found = _found(options.adapters, recursive=options.recursive)
    outcomes = _converted(found, options)
    if options.json:
        facts = {"schema": SCHEMA, "adapters": [_facts(outcome) for outcome in outcomes]}
        terminal.write_json(options.json, facts)
    wrong = [outcome for outcome in outcomes if outcome.status in ("failed", "nothing carried")]
    if len(found) == 1 and outcomes[0].status == "failed":
        error = TransferError(outcomes[0].message, hint=outcomes[0].hint)
        error.exit_code = outcomes[0].exit_code or error.exit_code
        raise error
    print("\n".join(line for outcome in outcomes for line in _lines(outcome)), file=terminal.talk(options.json))
    return 0 if not wrong else 2 if len(found) == 1 else 1


def _converted(found: Sequence[Found], options: argparse.Namespace) -> list[Outcome]:
    runtime = terminal.runtime(options)
    index = FileIndex(runtime.cache.folder)
    folders = tuple({each.path.parent for each in found} | ({options.output_dir} - {None}))
    library = Library(index, runtime.hashes, folders, outputs=Outputs(index), progress=terminal.Bar())
    library.look()
    target = None if options.target is None else described((options.target,), runtime.hashes)
    settings = staying(options.output_dir, "overwrite" if options.overwrite else "skip")
    how = {"base": options.base, "target": target, "writes": not options.dry_run}
    return [make_loadable(each, settings, library, runtime, **how) for each in found]


def _found(paths: Sequence[Path], *, recursive: bool) -> list[Found]:
    """The LoRAs of the command line: files and folders of PEFT's by themselves, those in other folders by name.

    Raises:
        TransferError: a folder of PEFT's is not complete.
    """
    found: list[Found] = []
    for path in paths:
        if not path.is_dir() or any((path / name).is_file() for name in (CONFIG, *WEIGHTS)):
            file = adapter_file(path)
            found.append(Found(adapter_name(file), file))
        else:
            found += find([path], recursive=recursive)
    return list({each.path.resolve(): each for each in found}.values())


def _lines(outcome: Outcome) -> list[str]:
    """What became of one LoRA, in words."""
    if outcome.status in ("left out", "failed"):
        return [f"{outcome.name}: {' '.join(filter(None, (outcome.message, outcome.hint)))}"]
    words = {"analysed": "can be made to load.", "nothing carried": "nothing of it can be written."}
    head = words.get(outcome.status, f"{outcome.status}: {outcome.path}")
    lost = [] if outcome.accounts is None else [*outcome.accounts.told]
    return [f"{outcome.name}: {head}", *(f"  {line}" for line in (*outcome.notes, *lost))]


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "base": outcome.target,
        "status": outcome.why if outcome.why == "loads as it is" else outcome.status,
        "message": " ".join(filter(None, (outcome.message, outcome.hint))),
        "notes": list(outcome.notes),
        "output": None if outcome.path is None else str(outcome.path),
        "report": None if outcome.report is None else outcome.report.summary(),
    }
