"""``python -m tests.webui.held_server HOLD ARGUMENTS``: the command line, whose jobs stand still while HOLD exists.

A job that waits within a module is what a slow module on a large model looks like, without depending on any clock. It makes
pictures too, as a WebUI does: plain ones, whose colours follow from everything they are made of, which is written to
HOLD.drawn.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from pathlib import Path

from PIL import Image

from lib_transfer.cli.main import main
from lib_transfer.engine import group
from lib_transfer.webui import server
from lib_transfer.webui.hosts.standalone import Standalone


class Painter(Standalone):
    """Makes pictures."""

    hold: Path

    def draws(self):
        return True

    def samplers(self):
        return ("Euler", "Heun")

    def draw(self, scene, prompt, checkpoint):
        while self.hold.exists():
            time.sleep(0.01)
        made_of = json.dumps([prompt, scene.negative, scene.sampler, scene.seed, scene.steps, checkpoint.name])
        with self.hold.with_suffix(".drawn").open("a") as log:
            log.write(made_of + "\n")
        colour = hashlib.sha256(made_of.encode()).digest()[:3]
        file = io.BytesIO()
        Image.new("RGB", (scene.width, scene.height), tuple(colour)).save(file, "JPEG", quality=95)
        return file.getvalue()


if __name__ == "__main__":
    hold, carry = Path(sys.argv[1]), group.carry

    def held(*arguments):
        while hold.exists():
            time.sleep(0.01)
        return carry(*arguments)

    group.carry = held
    Painter.hold = hold
    server.Standalone = Painter
    sys.exit(main(sys.argv[2:]))
