"""Whole folders of LoRAs, as the command line and the Python interface ask for them: settings, library and plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lib_transfer import methods
from lib_transfer.batches.plan import BatchPlan, plan
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import described, installed
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.destination import Existing, need_folder
from lib_transfer.library.index import FileIndex
from lib_transfer.library.job import Model, model_paths
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.methods import Value
from lib_transfer.progress import Progress


def checked_settings(
    method: str,
    values: Mapping[str, Value],
    source: Model | None,
    output: str | Path | None,
    existing: Existing,
    runtime: Runtime,
) -> TransferSettings:
    """How LoRAs are transferred, and where to.

    Raises:
        RequestError: the method or a setting of it is wrong, or the output folder can neither be written to nor made.
        StorageError: there is no permission to make it.
    """
    chosen = methods.get(method)
    if output is not None:
        need_folder(Path(output))
    return TransferSettings(
        chosen.id,
        methods.settings(chosen, values),
        source=None if source is None else described(model_paths(source), runtime.hashes),
        output=None if output is None else Path(output),
        existing=existing,
    )


def plan_folders(
    folders: Sequence[str | Path],
    found: Sequence[Found],
    target: Model,
    settings: TransferSettings,
    checkpoints: str | Path | None,
    runtime: Runtime,
    progress: Progress,
) -> BatchPlan:
    """The plan for the LoRAs that were ``found`` in ``folders``.

    Args:
        folders: the folders that are looked through for outputs, beside that of ``settings``.
        found: the LoRAs.
        target: the checkpoint that they are transferred to.
        settings: how they are transferred.
        checkpoints: a folder of checkpoints, in which each LoRA's source is found; None where there is none.
        runtime: its cache folder remembers what is known of the files.
        progress: is told of every LoRA, and asked whether to stop.

    Raises:
        RequestError: the target cannot be used, or there are no ``checkpoints``.
        CancelledError: the person asked to stop.
    """
    index, hashes = FileIndex(runtime.cache.folder), runtime.hashes
    library = Library(
        index,
        hashes,
        folders=(*map(Path, folders), *([settings.output] if settings.output is not None else [])),
        checkpoints=() if checkpoints is None else installed(Path(checkpoints), hashes),
        outputs=Outputs(index),
        progress=progress,
    )
    return plan(found, described(model_paths(target), hashes), settings, library, progress)
