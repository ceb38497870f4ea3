"""``batch``: convert whole folders of LoRAs."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lib_transfer import methods
from lib_transfer.batches.cluster import connected, on_cluster
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.estimate import estimate
from lib_transfer.batches.plan import plan
from lib_transfer.batches.processes import in_processes
from lib_transfer.batches.report import BatchReport, is_csv
from lib_transfer.batches.task import MEMORY, Task, tasks
from lib_transfer.batches.watch import Watch
from lib_transfer.cli import terminal
from lib_transfer.cli.batch_screen import Screen, tell_plan
from lib_transfer.cli.transfer import add_method, settings
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, RequestError
from lib_transfer.formats.publish import write_bytes
from lib_transfer.library.adapters import find
from lib_transfer.library.checkpoints import described, installed
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.destination import need_folder
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders with LoRAs")
    again = "; again for a text encoder in a file of its own"
    parser.add_argument(
        "--target",
        type=Path,
        action="append",
        metavar="CKPT",
        required=True,
        help=f"the checkpoint they are to work on{again}",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--source", type=Path, action="append", metavar="CKPT", help=f"the checkpoint all were trained on{again}"
    )
    source.add_argument(
        "--source-from-metadata",
        type=Path,
        metavar="DIR",
        help="a folder of checkpoints, in which each LoRA's own is found by what its metadata says",
    )
    parser.add_argument("--recursive", action="store_true", help="sub-folders too; their layout is kept")
    for flag, which in (("--include", "only LoRAs that match"), ("--exclude", "no LoRAs that match")):
        text = f"{which} the pattern, for the file name or the path below DIR: * matches any text, ? any one character"
        parser.add_argument(flag, metavar="GLOB", action="append", default=[], help=f"{text}; may be repeated")
    add_method(parser)
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="the folder to write to (each LoRA's own)")
    parser.add_argument(
        "--existing",
        choices=("skip", "overwrite", "both"),
        default="skip",
        help="what to do where an output of ours has the name that is wanted, and differs (skip)",
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="processes (one per processor, at most four)")
    parser.add_argument(
        "--memory",
        type=_gigabytes,
        metavar="GB",
        default=MEMORY,
        help="what all workers together may take over Python with torch (2); on a cluster, each of them",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="the Dask scheduler of a cluster that sees the same folders (needs distributed)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan, convert nothing")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write what became of each as CSV or JSON, by the ending (- for stdout)",
    )
    terminal.add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    terminal.check_reports(options)
    runtime = _everywhere(options)
    found = find(options.folders, recursive=options.recursive, include=options.include, exclude=options.exclude)
    if not found:
        more = "" if options.recursive else " Sub-folders are looked into with --recursive."
        raise RequestError("No LoRA was found.", hint=f"Check the folders and the patterns.{more}")
    stream = terminal.talk(options.report)
    target = described(options.target, runtime.hashes)
    planned = plan(found, target, _settings(options, runtime), _library(options, runtime), terminal.Bar())
    report = BatchReport(planned)
    with _reported(report, options.report), _engine(options, runtime) as engine:
        costs, how = Costs(planned), dataclasses.replace(runtime, workers=1)
        groups = tasks(planned, how, costs, memory=engine.memory, workers=engine.workers)
        takes = estimate(planned, groups, costs, how, workers=engine.workers)
        tell_plan(report, takes, stream, every=options.dry_run)
        if groups and not options.dry_run and not _convert(groups, engine, report, stream):
            return CancelledError.exit_code
    return 1 if report.failed else 0


@dataclass(frozen=True)
class _Engine:
    """What runs the groups: how many at a time, in how much memory, and how."""

    workers: int
    memory: int
    convert: Callable[[Sequence[Task], Watch], Iterator[Outcome]]


@contextmanager
def _engine(options: argparse.Namespace, runtime: Runtime) -> Iterator[_Engine]:
    """Processes of this machine, or the cluster that is asked for."""
    if options.scheduler is None:
        workers = options.workers or _usual_workers(runtime)
        yield _Engine(workers, options.memory, functools.partial(in_processes, workers=workers))
        return
    with connected(options.scheduler) as cluster:
        workers = options.workers or cluster.workers
        yield _Engine(workers, options.memory * workers, functools.partial(on_cluster, cluster=cluster))


def _everywhere(options: argparse.Namespace) -> Runtime:
    """The runtime; every path is made one that means the same in any process of any machine."""
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, value if str(value) == "-" else value.absolute())
        elif isinstance(value, list):
            setattr(options, name, [item.absolute() if isinstance(item, Path) else item for item in value])
    runtime = terminal.runtime(options)
    return dataclasses.replace(runtime, cache_folder=runtime.cache.folder.absolute())


def _settings(options: argparse.Namespace, runtime: Runtime) -> TransferSettings:
    method = methods.get(options.method)
    if method.needs_source and not (options.source or options.source_from_metadata):
        raise RequestError(
            f'The method "{method.id}" needs the checkpoint that each LoRA was trained on.',
            hint="Name it with --source, or a folder of checkpoints with --source-from-metadata.",
        )
    if options.output_dir is not None:
        need_folder(options.output_dir)
    return TransferSettings(
        method.id,
        methods.settings(method, settings(options)),
        source=described(options.source, runtime.hashes) if options.source else None,
        output=options.output_dir,
        existing=options.existing,
    )


def _library(options: argparse.Namespace, runtime: Runtime) -> Library:
    index, folder = FileIndex(runtime.cache.folder), options.source_from_metadata
    return Library(
        index,
        runtime.hashes,
        folders=(*options.folders, *([options.output_dir] if options.output_dir else [])),
        checkpoints=installed(folder, runtime.hashes) if folder else (),
        outputs=Outputs(index),
    )


def _usual_workers(runtime: Runtime) -> int:
    return 1 if runtime.torch_device.type == "cuda" else min(os.cpu_count() or 1, 4)


def _convert(groups: list[Task], engine: _Engine, report: BatchReport, stream: TextIO) -> bool:
    """Convert, and tell what became of each; whether it went on to the end."""
    screen = Screen(report, stream)
    try:
        for outcome in engine.convert(groups, screen):
            screen.settled(outcome)
    except (KeyboardInterrupt, CancelledError):
        written = sum(outcome.status == "written" for outcome in report.outcomes.values())
        screen.say(f"Interrupted; {written} LoRAs had been written, nothing is half-written.")
        return False
    finally:
        screen.clear()
    screen.say(f"Done: {report.words}.")
    return True


@contextmanager
def _reported(report: BatchReport, path: Path | None) -> Iterator[None]:
    """Write the report at the end, whatever the end is."""
    try:
        yield
    finally:
        if path is not None and str(path) == "-":
            print(report.to_json(), end="")
        elif path is not None:
            text = report.to_csv() if is_csv(path) else report.to_json()
            write_bytes(path, text.encode("utf-8", "replace"), overwrite=True)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 256")
    return int(text)


def _gigabytes(text: str) -> int:
    number = methods.as_number(text)
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of GB")
    return int(number * 2**30)
