"""Parse the command line, run the command, turn errors into sentences and exit codes."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from lib_transfer.cli import batch, cache, demo, inspect, methods, similarity, transfer, ui, verify
from lib_transfer.errors import CancelledError, StorageError, TransferError, internal
from lib_transfer.version import VERSION

COMMANDS = (transfer, batch, verify, inspect, similarity, methods, cache, demo, ui)

EPILOG = """exit codes: 0 done (also when the same output is already there); 2 a problem with the input, which the message
explains; 1 disk, memory or an internal error, or some LoRAs of a batch failed; 130 interrupted"""


def parser() -> argparse.ArgumentParser:
    """The whole command line; every command's module adds its own part."""
    whole = argparse.ArgumentParser(
        prog="python -m lib_transfer",
        description="Carry a LoRA from the checkpoint it was trained on to another one.",
        epilog=EPILOG,
    )
    whole.add_argument("--version", action="version", version=VERSION)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except (KeyboardInterrupt, CancelledError):
        return _fail("Interrupted; nothing was written.", 130)
    except TransferError as error:
        return _fail(f"Error: {error.message}" + (f"\n{error.hint}" if error.hint else ""), error.exit_code)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _fail(f"Error: {error}", StorageError.exit_code)
    except Exception as error:
        traceback.print_exc()
        return _fail(str(internal(error)), 1)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
