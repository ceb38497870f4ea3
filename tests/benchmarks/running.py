"""Run a checkpoint of full size, and print what it takes: ``python -m tests.benchmarks.running sdxl --size 256 --train``.

The weights are zeros in a file with holes, which takes no room on the disk; numbers do not matter to memory and time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import torch

from lib_transfer.architecture import architectures, reference
from lib_transfer.evaluation.loading import loaded
from lib_transfer.library.base import open_base
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import applied
from lib_transfer.update import Update
from tests.autoencoders import autoencoder


def hollow(path: Path, name: str) -> Path:
    """A safetensors file with the tensors of an architecture at its full size in half precision, all of them zero."""
    shapes = dict(reference(next(it for it in architectures() if it.id == name)))
    shapes |= {key: tuple(tensor.shape) for key, tensor in autoencoder(128).items()}
    header, at = {}, 0
    for key, shape in shapes.items():
        end = at + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


def main() -> None:
    """Load, predict, decode, and take one training step with a LoRA of rank 16 on every attention."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", help="sd1, sd2, sdxl, ssd-1b, vega, koala-700m or koala-1b")
    parser.add_argument("--size", type=int, default=256, help="width and height of the pictures in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", action="store_true", help="also a training step")
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    options = parser.parse_args()
    device, begun = torch.device(options.device), time.perf_counter()

    def say(what: str) -> None:
        gib = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of memory at most"
        if device.type == "cuda":
            gib += f", {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of the GPU's"
        print(f"{what:<10} {time.perf_counter() - begun:7.1f} s, {gib}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        path = hollow(Path(folder) / "model.safetensors", options.architecture)
        print(
            f"{options.architecture}, {path.stat().st_size / 2**30:.2f} GiB in half precision, {os.cpu_count()} cores"
        )
        with (
            open_base(path, "") as base,
            loaded(base, device, options.size // 8, checkpointing=options.checkpointing) as model,
        ):
            say("loaded")
            given = torch.zeros(1, *model.shape), torch.tensor([0.5]), ["a house"]
            model.noise(*given)
            say("predicted")
            if options.train:
                names = [m.name for m in base.modules if ".attn" in m.name and m.kind == "linear"]
                shapes = {name: base.by_name[name].matrix_shape for name in names}
                updates = {
                    name: Update(factors=Factors(*(_leaf(shape, device) for shape in ((out, 16), (16, into)))))
                    for name, (out, into) in shapes.items()
                }
                with applied(model.places, updates), torch.enable_grad():
                    model.noise(*given, with_grad=True).square().sum().backward()
                say("trained")
            model.decode(given[0])
            say("decoded")


def _leaf(shape: tuple[int, int], device: torch.device) -> torch.Tensor:
    return torch.zeros(shape, device=device).requires_grad_()


if __name__ == "__main__":
    main()
