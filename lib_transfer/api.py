"""What ``import lib_transfer`` offers beside the engine's own functions."""

from __future__ import annotations

from pathlib import Path

from lib_transfer import methods
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.library import request as engine_request
from lib_transfer.library.request import Model, TransferRequest
from lib_transfer.methods import METHODS, Method, Value


def list_methods() -> tuple[Method, ...]:
    """Every method, the default one first."""
    return METHODS


def request(
    adapter: str | Path,
    *,
    target: Model,
    source: Model | None = None,
    method: str = methods.DEFAULT,
    runtime: Runtime | None = None,
    **settings: Value,
) -> TransferRequest:
    """The request to transfer ``adapter`` from the checkpoint ``source`` to the checkpoint ``target``.

    Hashes all three files; hashes are remembered in the cache folder.

    Args:
        adapter: path.
        source, target: paths; a sequence of them where text encoders lie in files of their own, the checkpoint first. A
            method that declares no need of it does without a source.
        method: id of one of :func:`list_methods`.
        runtime: whose cache folder remembers the hashes; only that is used of it.
        settings: of the method, such as ``energy=0.95`` or ``rank="full"``; the rest take their defaults.

    Raises:
        TransferError: an unknown method or setting, a value out of range, or a file that cannot be read.
    """
    hashes = (runtime or Runtime()).hashes
    return engine_request.request(
        adapter, target=target, source=source, method=method, settings=settings, hashes=hashes
    )
