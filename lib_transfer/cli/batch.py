"""``batch``: convert whole folders of LoRAs."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lib_transfer import methods
from lib_transfer.batches.cluster import connected, on_cluster
from lib_transfer.batches.convert import convert
from lib_transfer.batches.costs import Costs
from lib_transfer.batches.estimate import estimate
from lib_transfer.batches.folders import checked_settings, plan_folders
from lib_transfer.batches.processes import in_processes
from lib_transfer.batches.report import BatchReport, is_csv
from lib_transfer.batches.task import MEMORY, Task, tasks
from lib_transfer.batches.watch import Watch
from lib_transfer.cli import terminal
from lib_transfer.cli.batch_screen import Screen, tell_plan
from lib_transfer.cli.transfer import add_method, need_source, settings
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, RequestError
from lib_transfer.formats.publish import write_bytes
from lib_transfer.library.adapters import find


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders with LoRAs")
    again = "; repeat the option for a text encoder in a file of its own"
    parser.add_argument(
        "--target",
        type=Path,
        action="append",
        metavar="CKPT",
        required=True,
        help=f"the checkpoint that they are transferred to{again}",
    )
    source = parser.add_mutually_exclusive_group()
    text = f"the checkpoint that all of them were trained on{again}"
    source.add_argument("--source", type=Path, action="append", metavar="CKPT", help=text)
    text = "a folder of checkpoints; the one that each LoRA was trained on is found from the LoRA's metadata"
    source.add_argument("--source-from-metadata", type=Path, metavar="DIR", help=text)
    text = "include sub-folders; their layout is kept in the output folder"
    parser.add_argument("--recursive", action="store_true", help=text)
    pattern = "whose file name, or path below DIR, matches the pattern: * matches any text, ? any one character"
    for flag, which in (("--include", "only LoRAs"), ("--exclude", "leave out LoRAs")):
        text = f"{which} {pattern}; may be repeated"
        parser.add_argument(flag, metavar="GLOB", action="append", default=[], help=text)
    add_method(parser)
    text = "the folder to write to (default: each LoRA's own folder)"
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help=text)
    text = "what to do if a different output of Transfer LoRA has the wanted name (default skip)"
    parser.add_argument("--existing", choices=("skip", "overwrite", "both"), default="skip", help=text)
    text = "number of worker processes (default: one per processor, at most four)"
    parser.add_argument("--workers", type=_count, metavar="N", help=text)
    text = "GB of memory for all workers together, beyond what Python with torch takes (default 2)"
    text = f"{text}; on a cluster, for each worker"
    parser.add_argument("--memory", type=_gigabytes, metavar="GB", default=MEMORY, help=text)
    text = "address of a Dask scheduler whose machines see the same folders (needs the package distributed)"
    parser.add_argument("--scheduler", metavar="ADDRESS", help=text)
    parser.add_argument("--dry-run", action="store_true", help="show the plan, transfer nothing")
    text = "write the result for each LoRA as CSV or JSON, by the ending of FILE (- for stdout)"
    parser.add_argument("--report", type=Path, metavar="FILE", help=text)
    terminal.add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    terminal.check_reports(options)
    runtime = _everywhere(options)
    hint = "Name it with --source, or a folder of checkpoints with --source-from-metadata."
    need_source(methods.get(options.method), options.source or options.source_from_metadata, hint)
    found = find(options.folders, recursive=options.recursive, include=options.include, exclude=options.exclude)
    if not found:
        more = "" if options.recursive else " Sub-folders are looked into with --recursive."
        raise RequestError("No LoRA was found.", hint=f"Check the folders and the patterns.{more}")
    asked = checked_settings(
        options.method, settings(options), options.source, options.output_dir, options.existing, runtime
    )
    checkpoints = options.source_from_metadata
    planned = plan_folders(options.folders, found, options.target, asked, checkpoints, runtime, terminal.Bar())
    stream = terminal.talk(options.report)
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
    if options.scheduler is None and methods.get(options.method).runs_models:
        # Models take the whole machine, so they are run in this process, with all its threads.
        yield _Engine(1, options.memory, _here)
        return
    if options.scheduler is None:
        workers = options.workers or runtime.threads
        yield _Engine(workers, options.memory, functools.partial(in_processes, workers=workers))
        return
    with connected(options.scheduler) as cluster:
        workers = options.workers or cluster.workers
        yield _Engine(workers, options.memory * workers, functools.partial(on_cluster, cluster=cluster))


def _here(groups: Sequence[Task], watch: Watch) -> Iterator[Outcome]:
    return (outcome for group in groups for outcome in convert(group, watch))


def _everywhere(options: argparse.Namespace) -> Runtime:
    """The runtime; every path is made one that means the same in any process of any machine."""
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, value if str(value) == "-" else value.absolute())
        elif isinstance(value, list):
            setattr(options, name, [item.absolute() if isinstance(item, Path) else item for item in value])
    runtime = terminal.runtime(options)
    return dataclasses.replace(runtime, cache_folder=runtime.cache.folder.absolute())


def _convert(groups: list[Task], engine: _Engine, report: BatchReport, stream: TextIO) -> bool:
    """Convert, and tell what became of each; whether it went on to the end."""
    screen = Screen(report, stream)
    try:
        for outcome in engine.convert(groups, screen):
            screen.settled(outcome)
    except (KeyboardInterrupt, CancelledError):
        written = sum(outcome.status == "written" for outcome in report.outcomes.values())
        screen.say(f"Interrupted. {written} LoRAs were written; no file is half-written.")
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
