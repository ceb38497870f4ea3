"""``ui``: the tab in a browser, without a WebUI."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_transfer.cli import terminal
from lib_transfer.errors import RequestError


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "--models-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder laid out like the models folder of a WebUI, with Stable-diffusion and Lora in it",
    )
    add_server(parser)
    terminal.add_cache_folder(parser)
    parser.set_defaults(run=run)


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options of the server."""
    text = "port of the server (default: the first free one from 7860)"
    parser.add_argument("--port", type=int, metavar="N", help=text)
    text = "only print the address, do not open a browser"
    parser.add_argument("--no-browser", action="store_true", help=text)


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    serve(options.models_dir, options)
    return 0


def serve(models_dir: Path, options: argparse.Namespace, cache_folder: Path | None = None) -> None:
    """Serve the tab on the models in ``models_dir``.

    Raises:
        RequestError: gradio is not installed, or the folder is not laid out like a WebUI's.
    """
    try:
        from lib_transfer.webui.app import server  # noqa: PLC0415 - gradio is needed for this command alone
    except ModuleNotFoundError as error:
        raise RequestError(
            f"The page needs gradio, and {error.name} is not installed.",
            hint="Install gradio 3.41.2 or 4.40.0, or use the tab in your WebUI.",
        ) from error
    cache = cache_folder or getattr(options, "cache_dir", None)
    server.serve(models_dir, cache_folder=cache, port=options.port, browser=not options.no_browser)
