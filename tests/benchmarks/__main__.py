"""``python -m tests.benchmarks``; see ``--help``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.benchmarks import adapters, files, speed


def main() -> None:
    """Run the benchmark that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=speed.__doc__)
    parser.add_argument("part", nargs="?", choices=("quality",), help="whether transferred LoRAs work; else how fast")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="of the quality's models; several for as many")
    parser.add_argument("--pairs", nargs="+", default=[], metavar="NAME", help="of quality: only these targets")
    parser.add_argument("--quick", action="store_true", help="of quality: hardly train, to see that everything runs")
    parser.add_argument("--architecture", choices=("sd1", "sdxl", "anima", "flux-dev"), default="sd1")
    parser.add_argument(
        "--blocks", type=int, metavar="N", help="of a transformer only N blocks of each kind, scaled up"
    )
    parser.add_argument("--spectrum", choices=tuple(files.SPECTRA), default="steep")
    parser.add_argument("--no-recipe", action="store_true", help="leave the slow comparison out")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "transfer-lora-benchmarks")
    parser.add_argument("--memory", action="store_true", help="measure memory alone")
    parser.add_argument("--adapter", choices=adapters.KINDS, default="lora", help="what --memory transfers")
    parser.add_argument("--method", default="rotation", help="of --memory")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth module, for a quicker look")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="the medians of how many measurements")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the mathematics is done")
    parser.add_argument("--prompt", type=int, metavar="LORAS", help="measure prompt time alone, with so many LoRAs")
    parser.add_argument("--batch", type=int, metavar="LORAS", help="measure a batch alone, of so many LoRAs (50)")
    parser.add_argument("--gigabytes", type=float, default=2.0, metavar="GB", help="memory limit of the batch")
    options = parser.parse_args()
    if options.part == "quality":
        from tests.benchmarks.quality.run import run  # needs diffusers

        run(options.dir / "quality", options.seed, options.pairs, quick=options.quick)
        return
    if options.batch is not None:
        from tests.benchmarks import batch

        batch.run(options.dir, options.architecture, options.spectrum, options.batch, options.every, options.gigabytes)
        return
    if options.prompt is not None:
        from tests.benchmarks import prompt  # needs gradio

        prompt.run(options.prompt)
        return
    if options.memory:
        speed.memory(
            options.dir,
            options.architecture,
            options.spectrum,
            options.adapter,
            options.every,
            options.method,
            options.blocks,
        )
        return
    speed.run(
        options.dir,
        options.architecture,
        options.spectrum,
        not options.no_recipe,
        options.every,
        options.blocks,
        options.rounds,
        options.device,
    )


if __name__ == "__main__":
    main()
