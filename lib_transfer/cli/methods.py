"""``methods``: what there is to choose from."""

from __future__ import annotations

import argparse

from lib_transfer import methods
from lib_transfer.methods import METHODS

SYMBOLS = (
    "D is the update of a module; P and Q project onto the dominant subspaces of its weight (s: source, t: target)"
)
"""What stands in the formulas."""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print every method."""
    print(SYMBOLS)
    for method in METHODS:
        default = " (default)" if method.id == methods.DEFAULT else ""
        print(f"{method.id}{default}: {method.title}")
        print(f"  {method.summary}")
        print(f"  {method.formula}")
        print(f"  {method.paper}")
        print(f"  needs the source checkpoint: {'yes' if method.needs_source else 'no'}")
        for parameter in methods.parameters(method):
            print(f"  --{parameter.name.replace('_', '-')}: {parameter.help}")
        print()
    return 0
