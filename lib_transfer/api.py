"""What ``import lib_transfer`` offers beside the functions that are made elsewhere."""

from __future__ import annotations

from pathlib import Path

from lib_transfer import methods
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.library.job import Job, Model, make_job
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
) -> Job:
    """The job of transferring ``adapter`` from the checkpoint ``source`` to the checkpoint ``target``.

    Hashes all three files; hashes are remembered in the cache folder. What the result depends on is its ``request``.

    Args:
        adapter: the path of the LoRA.
        source, target: paths of checkpoints; a sequence of them where text encoders lie in files of their own, the
            checkpoint first. A method that declares no need of it does without a source.
        method: the id of one of :func:`list_methods`.
        runtime: the runtime whose cache folder remembers the hashes; only that is used of it.
        settings: settings of the method, such as ``energy=0.95`` or ``rank="full"``; the rest take their defaults.

    Raises:
        TransferError: an unknown method or setting, a value out of range, or a file that cannot be read.
    """
    hashes = (runtime or Runtime()).hashes
    return make_job(adapter, target=target, source=source, method=method, settings=settings, hashes=hashes)
