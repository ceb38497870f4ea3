"""``verify``: run both models, and say whether a transferred LoRA does to the target what the original does to the source."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lib_transfer import methods
from lib_transfer.cli import terminal
from lib_transfer.evaluation import verify
from lib_transfer.evaluation.card import card
from lib_transfer.evaluation.verification import INPUTS
from lib_transfer.formats.writer import of_ours


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="the original LoRA")
    again = "; repeat the option for a text encoder in a file of its own"
    for flag, text in (("--source", "the checkpoint that it was trained on"), ("--target", "the other checkpoint")):
        parser.add_argument(
            flag, type=Path, action="append", metavar="CKPT", required=True, help=f"{text}{again} (SD1, SD2, SDXL)"
        )
    parser.add_argument(
        "--transferred", type=Path, action="append", default=[], metavar="FILE",
        help=f"the transferred LoRA; may be repeated to compare several (default: one made by {methods.DEFAULT})",
    )  # fmt: skip
    parser.add_argument(
        "--note",
        action="store_true",
        help="put the result into the metadata of each FILE that Transfer LoRA made",
    )
    text = f"number of held-out pictures that the models are compared on (default {INPUTS})"
    parser.add_argument("--inputs", type=_positive, default=INPUTS, metavar="N", help=text)
    text = "a prompt to make the pictures from; may be repeated (default: the LoRA's own trigger words and tags)"
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of all noise (default 0)")
    text = "width and height of the pictures in pixels (default: as the model was trained: 512, 768 or 1024)"
    parser.add_argument("--size", type=_positive, default=0, metavar="PIXELS", help=text)
    text = "Clip skip for the prompts, 1 to 12 (default: what the LoRA was trained with, else as the checkpoint was)"
    parser.add_argument("--clip-skip", type=_positive, default=0, metavar="N", help=text)
    text = "write a card as JSON that can be published: numbers and hashes, no names and no prompts (- for stdout)"
    parser.add_argument("--card", type=Path, metavar="FILE", help=text)
    terminal.add_reports(parser, "the result")
    terminal.add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; 2 where no transferred LoRA transfers."""
    terminal.check_reports(options)
    out = terminal.talk(options.json or options.card)
    runtime, began = terminal.runtime(options), time.monotonic()
    noted = options.transferred if options.note else []
    for path in noted:
        of_ours(path)

    def announce(cost: str) -> None:
        print(f"This takes {cost}", file=out)

    found = verify(
        options.adapter,
        source=options.source,
        target=options.target,
        transferred=options.transferred,
        prompts=options.prompt,
        inputs=options.inputs,
        size=options.size,
        seed=options.seed,
        clip_skip=options.clip_skip,
        runtime=runtime,
        progress=terminal.Bar(),
        announce=announce,
    )
    print(found.text, file=out)
    for path in noted:
        found.note_in(path)
    if options.json:
        terminal.write_json(options.json, found.facts())
    if options.card:
        seconds = time.monotonic() - began
        terminal.write_json(options.card, card(found, seconds=seconds, device=runtime.torch_device.type))
    return 0 if found.choice.name is not None else 2


def _positive(given: str) -> int:
    number = int(given)
    if number < 1:
        raise argparse.ArgumentTypeError("it has to be 1 or more")
    return number
