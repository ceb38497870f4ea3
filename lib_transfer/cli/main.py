"""Parse the command line, run the command, turn errors into sentences and exit codes."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import traceback
from collections.abc import Sequence

from lib_transfer.errors import CancelledError, StorageError, TransferError, internal
from lib_transfer.version import VERSION

COMMANDS = {
    "transfer": "transfer a LoRA from one checkpoint to another",
    "convert": "make LoRAs load: other names and another layout for the same numbers",
    "batch": "transfer every LoRA of a folder",
    "verify": "run both models: does a transferred LoRA do what the original does?",
    "inspect": "show what a checkpoint or a LoRA file is",
    "similarity": "show how similar the weights of two checkpoints are, module by module",
    "methods": "list the methods, their formulas, papers and settings",
    "cache": "show, check or empty the cache of decompositions",
    "demo": "make small checkpoints and LoRAs, transfer them, show the reports",
    "ui": "open the WebUI's tab in a browser, without a WebUI (needs gradio)",
}
"""Every command with its help; the module of the same name beside this one has its arguments and runs it."""

NEEDED = ("torch", "safetensors", "numpy")

EPILOG = """exit codes: 0 done (also if the same output is already there); 1 disk, memory or an internal error, or some LoRAs of a
batch failed; 2 a problem with the input, which the message explains, or nothing that can be transferred; 130 interrupted"""


def parser(asked: str | None) -> argparse.ArgumentParser:
    """The command line with the arguments of one command: torch comes with its module, and the list of all needs none."""
    whole = argparse.ArgumentParser(
        prog="python -m lib_transfer",
        description="Transfer a LoRA from the checkpoint that it was trained on to another one.",
        epilog=EPILOG,
    )
    whole.add_argument("--version", action="version", version=VERSION)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        if name == asked:
            importlib.import_module(f"lib_transfer.cli.{name}").add_to(command)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    asked = next((argument for argument in arguments if argument in COMMANDS), None)
    if asked is not None:
        _need_packages()
    options = parser(asked).parse_args(arguments)
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


def _need_packages() -> None:
    """End the program with a sentence, as argparse does for wrong arguments, where a package is missing."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise SystemExit(
            f"Transfer LoRA needs {' and '.join(missing)}, which this Python lacks. Install what is missing with "
            f'"{sys.executable} -m pip install {" ".join(missing)}", or use the Python of your WebUI.'
        )


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
