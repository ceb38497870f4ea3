"""``similarity``: how alike two checkpoints are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_transfer import methods
from lib_transfer.cli import terminal
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.heatmap import draw, save
from lib_transfer.conversion.similarity import compare


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--source", type=Path, metavar="CKPT", required=True, help="the first checkpoint")
    parser.add_argument("--target", type=Path, metavar="CKPT", required=True, help="the checkpoint to compare it with")
    parser.add_argument("--energy", metavar="F", help="subspace rank by energy (default 0.99)")
    parser.add_argument("--subspace-rank", metavar="N", help="a fixed subspace rank instead")
    terminal.add_reports(parser, "every module's similarities", plot=True)
    terminal.add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    terminal.check_reports(options)
    given = {"energy": options.energy, "subspace_rank": options.subspace_rank}
    settings: dict[str, Any] = methods.settings(methods.get(methods.DEFAULT), given)
    wanted = Wanted(settings["energy"], settings["subspace_rank"])
    report = compare(options.source, options.target, wanted, runtime=terminal.runtime(options), progress=terminal.Bar())
    print(report.to_text(), file=terminal.talk(options.json))
    if options.json:
        terminal.write_json(options.json, report.to_dict())
    if options.plot:
        save(draw(report.panels(), f"{report.source} and {report.target}"), options.plot)
    return 0
