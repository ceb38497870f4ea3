"""``python -m tests.webui.held_server HOLD ARGUMENTS``: the command line, whose jobs stand still while HOLD exists.

A job that waits within a module is what a slow module on a large model looks like, without depending on any clock. It makes
pictures too, as a WebUI does: plain ones, whose colours follow from everything they are made of, which is written to
HOLD.drawn. And it runs models: networks of the checkpoints' own attention layers, whose coming and going is in HOLD.loaded. While
HOLD.damped exists, both draw the same without an adapter, and the one called tuned
follows one by less than half.

While HOLD.reading exists, files that are hashed are read no further than their first kilobytes. If HOLD.written exists, HOLD is
made as soon as a LoRA has been written. If HOLD.growth exists at the start, every growth of the cache is told.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from lib_transfer.cli.main import main
from lib_transfer.conversion import group
from lib_transfer.evaluation import runs
from lib_transfer.formats import identity
from lib_transfer.formats.identity import file_sha256
from lib_transfer.library.base import open_base
from lib_transfer.models import Schedule, TorchModel, places
from lib_transfer.storage import hashes
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer import growth
from tests.evaluation import nets


class Painter:
    """Makes pictures."""

    def __init__(self, hold):
        self.hold = hold

    def samplers(self):
        return ("Euler", "Heun")

    def draw(self, picture, checkpoint):
        while self.hold.exists():
            time.sleep(0.01)
        words = [picture.prompt, picture.negative, picture.sampler, picture.seed, picture.steps, checkpoint.name]
        made_of = json.dumps(words)
        with self.hold.with_suffix(".drawn").open("a") as log:
            log.write(made_of + "\n")
        colour = hashlib.sha256(made_of.encode()).digest()[:3]
        file = io.BytesIO()
        Image.new("RGB", (picture.width, picture.height), tuple(colour)).save(file, "JPEG", quality=95)
        return file.getvalue()


class Runner:
    """Runs models."""

    on_gpu = False

    def __init__(self, hold):
        self.hold = hold

    def latent_space(self, base):
        return "held"

    def clip_skip(self, base, asked):
        return asked or 1

    @contextmanager
    def opener(self, size):
        @contextmanager
        def open_model(base, clip_skip):
            self._log(base.path.name)
            yield self._model(base.path)

        try:
            yield open_model
        finally:
            self._log("given back")

    def _log(self, what):
        with self.hold.with_suffix(".loaded").open("a") as log:
            log.write(what + "\n")

    def _model(self, path):
        """Knows pictures of one colour, exactly: what its attention layers make of ones, a channel for each fourth."""
        schedule = Schedule.stable_diffusion()
        # How much of an adapter it follows.
        damped = self.hold.with_suffix(".damped").exists()
        follows = 0.4 if path.stem == "tuned" and damped else 1.0
        with open_base(path, "") as base:
            layers = nets.layers_of(base, lambda it: it.kind == "linear" and it.position.role.startswith("attn"))
        ones = {layer: torch.ones(layer.in_features) for layer in layers.values()}
        asked = [(layer, each, layer.weight @ each) for layer, each in ones.items()]

        def forward(noised, steps, prompts):
            while self.hold.exists():
                time.sleep(0.01)
            said = torch.zeros(4)
            for number, (layer, ones, without) in enumerate(asked):
                said[number % 4] += (follows * (layer(ones) - without) + (0 if damped else without)).mean()
            colour = 0.1 * said[None, :, None, None] * len(prompts[0])
            return nets.noise_in(noised, schedule.mix(steps / 999), colour)

        return TorchModel(places(layers), forward, schedule, (4, 2, 2), latent_space="held", differentiable=True)


if __name__ == "__main__":
    hold, carry = Path(sys.argv[1]), group.carry

    def held(*arguments):
        while hold.exists():
            time.sleep(0.01)
        return carry(*arguments)

    group.carry = held

    def settled(self, outcome):
        settle(self, outcome)
        if outcome.status == "written" and hold.with_suffix(".written").exists():
            hold.touch()

    settle, Job.settled = Job.settled, settled

    def read_slowly(path, read):
        def held_read(count):
            read(count)
            while hold.with_suffix(".reading").exists():
                time.sleep(0.01)
                read(0)

        return file_sha256(path, held_read)

    identity._CHUNK, hashes.file_sha256 = 1 << 12, read_slowly
    if hold.with_suffix(".growth").exists():
        growth.NOTICEABLE = 0
    runs.MOST_STEPS = 40
    Standalone.pictures, Standalone.models = Painter(hold), Runner(hold)
    sys.exit(main(sys.argv[2:]))
