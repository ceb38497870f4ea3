"""``verify``: run both models, and say whether a transferred LoRA does to the target what the original does to the source.

With ``--improve``, look for one that does it better, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_transfer import api
from lib_transfer import methods as registry
from lib_transfer.cli import terminal
from lib_transfer.conversion.jobs import transfer
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.conversion.variants import usual_size
from lib_transfer.errors import RequestError
from lib_transfer.evaluation import Study, study
from lib_transfer.evaluation.improvement import RANK, improving, request_of, save
from lib_transfer.evaluation.loading import LATENT_SPACE, family_of, loaded
from lib_transfer.evaluation.tokens import vocabulary
from lib_transfer.evaluation.verification import INPUTS, Wanted, cost_of, gathered, verifying
from lib_transfer.formats.annotate import annotate, of_ours
from lib_transfer.formats.metadata import MATCH
from lib_transfer.library.base import Base, open_base
from lib_transfer.library.destination import Destination, need_folder, to_replace
from lib_transfer.library.job import Job


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="the original LoRA")
    again = "; again for a text encoder in a file of its own"
    for flag, text in (("--source", "the checkpoint it was trained on"), ("--target", "the other checkpoint")):
        parser.add_argument(
            flag, type=Path, action="append", metavar="CKPT", required=True, help=f"{text}{again} (SD1, SD2, SDXL)"
        )
    parser.add_argument(
        "--transferred", type=Path, action="append", default=[], metavar="FILE",
        help=f"what was made of it for the target; again for others (made by {registry.DEFAULT} when not given)",
    )  # fmt: skip
    parser.add_argument(
        "--note", action="store_true", help="put what is found into the metadata of each FILE that was made by us"
    )
    parser.add_argument("--inputs", type=_positive, default=INPUTS, metavar="N", help=f"to run on ({INPUTS})")
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="of the inputs; again for others (its own words)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all noise (0)")
    parser.add_argument(
        "--size", type=_positive, metavar="PIXELS", help="of the pictures (as the model was trained: 512, 768, 1024)"
    )
    parser.add_argument(
        "--improve", type=Path, metavar="FILE",
        help="also make better ones (pursuit, reconstruct, distil), which takes many times longer, and write the best to FILE",
    )  # fmt: skip
    parser.add_argument("--rank", type=_positive, default=RANK, metavar="N", help=f"of a reconstruction ({RANK})")
    parser.add_argument("--overwrite", action="store_true", help="replace an output of ours")
    terminal.add_reports(parser, "what was found")
    terminal.add_runtime(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; 2 where no transferred LoRA comes through."""
    terminal.check_reports(options)
    runtime, out = terminal.runtime(options), terminal.talk(options.json)
    job = api.request(options.adapter, source=options.source, target=options.target, runtime=runtime)
    destination = None if options.improve is None else Destination(file=options.improve, overwrite=options.overwrite)
    if destination is not None:
        # Said before hours of running rather than after.
        path = replace(job, destination=destination).output
        to_replace(path, destination)
        need_folder(path.parent)
    noted = options.transferred if options.note else []
    for path in noted:
        of_ours(path)
    with ExitStack() as stack:
        source, target = (stack.enter_context(_base(paths, runtime)) for paths in (options.source, options.target))
        side, space = _side(source, target, options.size)
        files = options.transferred or [stack.enter_context(_made(job, runtime))]
        wanted = Wanted(options.adapter, {p.name: p for p in files}, options.prompt, options.inputs, options.seed)
        given = gathered(wanted, source, target)
        plan = verifying(wanted, given, space)
        if destination is not None:
            plan = improving(wanted, given, target, space, options.rank)
        print(f"This takes {cost_of(plan, len(given.candidates))}", file=out)
        if vocabulary() is None:
            print("CLIP's vocabulary is not installed (open_clip has it), so prompts are random words.", file=out)
        found = study(
            lambda: loaded(source, runtime.torch_device, side),
            lambda: loaded(target, runtime.torch_device, side),
            given.original,
            given.candidates,
            plan,
            terminal.Bar(),
            reuse=given.reuse,
        )
        print(text(found), file=out)
        for path in noted:
            annotate(path, {MATCH: json.dumps(found.facts(), sort_keys=True)})
        if destination is not None and found.choice.name is not None:
            written = save(found, Job(request_of(job.request, plan, side), job.files, destination), given, target)
            print(f"Written: {written}", file=out)
    if options.json:
        terminal.write_json(options.json, found.facts())
    return 0 if found.choice.name is not None else 2


def text(found: Study) -> str:
    """What was found, for a person."""
    width = max(map(len, found.matches))
    lines = [f"{name:<{width}}  {match.text}" for name, match in found.matches.items()]
    return "\n".join([*lines, *found.notes, found.choice.reason])


def _base(paths: list[Path], runtime: Runtime) -> Any:
    hashes = runtime.hashes
    return open_base(paths[0], hashes.sha256(paths[0]), [(path, hashes.sha256(path)) for path in paths[1:]])


def _side(source: Base, target: Base, pixels: int | None) -> tuple[int, str]:
    """The side of the latents, as the target was trained where no size is asked for, and whose latents they are."""
    for base in (source, target):
        family_of(base)
    # Halved three times in the UNet, and once in the autoencoder for each of three levels.
    if pixels is not None and pixels % 64:
        raise RequestError(f"Pictures of {pixels} pixels cannot be made.", hint="Choose a multiple of 64.")
    one, other = (LATENT_SPACE[base.architecture.family] for base in (source, target))
    if one != other:
        raise RequestError(
            f"{source.path.name} and {target.path.name} have different autoencoders, which are not run here.",
            hint="The Transfer LoRA tab of a WebUI can verify such a pair.",
        )
    return (usual_size(target) if pixels is None else pixels) // 8, one


@contextmanager
def _made(job: Job, runtime: Runtime) -> Iterator[Path]:
    """What the default method makes of the LoRA, for as long as it is looked at."""
    with tempfile.TemporaryDirectory(prefix="transfer-lora-") as folder:
        file = Path(folder) / f"{registry.DEFAULT}.safetensors"
        result = transfer(job, Destination(file=file), runtime=runtime, progress=terminal.Bar())
        if result.path is None:
            raise RequestError("Nothing of the LoRA could be carried to the target, so there is nothing to verify.")
        yield result.path


def _positive(given: str) -> int:
    number = int(given)
    if number < 1:
        raise argparse.ArgumentTypeError("it has to be 1 or more")
    return number
