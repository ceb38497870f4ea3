"""``python -m tests.batches.held ARGUMENTS``: the command line, whose workers stand still within a module while HOLD exists.

HOLD is a file named by the environment. A worker that stands still leaves its number beside it, as ``HOLD.<pid>``. The
file is the main module of the workers too, so what it changes holds in them.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from lib_transfer.cli.main import main
from lib_transfer.conversion import group

HOLD = Path(os.environ["HOLD"])
REAL = group.carry


def held(*arguments: Any) -> Any:
    while HOLD.exists():
        HOLD.with_name(f"{HOLD.name}.{os.getpid()}").touch()
        time.sleep(0.01)
    return REAL(*arguments)


group.carry = held

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
