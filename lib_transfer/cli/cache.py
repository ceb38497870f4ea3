"""``cache info|check|clear``: the decompositions kept on disk."""

from __future__ import annotations

import argparse

from lib_transfer.cli import terminal
from lib_transfer.formatting import size
from lib_transfer.storage.cache import Cache


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    text = "info: show its size; check: verify every entry and remove damaged ones; clear: remove all entries"
    parser.add_argument("action", choices=("info", "check", "clear"), help=text)
    terminal.add_cache_folder(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run one of the three actions."""
    cache = terminal.runtime(options).cache
    return {"info": _info, "check": _check, "clear": _clear}[options.action](cache)


def _info(cache: Cache) -> int:
    contents = cache.contents()
    print(f"folder: {contents.folder}")
    for kind, count in contents.entries.items():
        print(f"{kind}: {count} entries, {size(contents.bytes[kind])}")
    print(f"total: {size(contents.total_bytes)} of at most {size(contents.limit)}")
    return 0


def _check(cache: Cache) -> int:
    sound, removed = cache.check()
    print(f"{sound} entries are sound, {len(removed)} were damaged and removed.")
    for path in removed:
        print(f"  {path}")
    return 0


def _clear(cache: Cache) -> int:
    print(f"{size(cache.clear())} were freed.")
    return 0
