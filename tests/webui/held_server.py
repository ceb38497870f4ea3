"""``python -m tests.webui.held_server HOLD ARGUMENTS``: the command line, whose jobs stand still while HOLD exists.

A job that waits within a module is what a slow module on a large model looks like, without depending on any clock.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lib_transfer.cli.main import main
from lib_transfer.engine import group

if __name__ == "__main__":
    hold, carry = Path(sys.argv[1]), group.carry

    def held(*arguments):
        while hold.exists():
            time.sleep(0.01)
        return carry(*arguments)

    group.carry = held
    sys.exit(main(sys.argv[2:]))
