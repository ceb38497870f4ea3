"""The folder that PEFT saves an adapter as: ``adapter_config.json`` beside ``adapter_model.safetensors`` or ``.bin``.

An adapter in such a folder is called after the folder, in whose place its outputs belong: all of them have the same file name.
"""

from __future__ import annotations

import os
from pathlib import Path

from lib_transfer.errors import BadFileError

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""The names of the file with the tensors; the first that is there counts, as in PEFT."""

# What diffusers saves an adapter as, in a folder where it is asked for one.
_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")


def config_beside(path: str | os.PathLike[str]) -> Path | None:
    """The configuration that PEFT wrote beside the adapter at ``path``; None where there is none."""
    if not os.fspath(path).endswith(WEIGHTS):  # of thousands of files, few are looked at
        return None
    beside = Path(path).with_name(CONFIG)
    return beside if Path(path).name in WEIGHTS and beside.is_file() else None


def adapter_file(path: Path) -> Path:
    """The file with the tensors of the adapter at ``path``: in a folder that holds one, that of the folder, else itself.

    Raises:
        BadFileError: ``missing``: the folder has a configuration and no tensors; ``several``: it has several adapters, in
            folders of their own.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in (*WEIGHTS, *_DIFFUSERS) if (path / name).is_file()), None)
    if found is not None:
        return found
    if (path / CONFIG).is_file():
        raise BadFileError(
            f"{path} has {CONFIG}, but neither {' nor '.join(WEIGHTS)}: the adapter's tensors are missing.",
            reason="missing",
            hint="Its download may not be complete.",
        )
    if parts := _adapters_in(path):
        raise BadFileError(
            f"{path} is no adapter itself: it has one in each of the folders {', '.join(parts)}."
            if len(parts) > 1
            else f"{path} is no adapter itself: it has one in the folder {parts[0]}.",
            reason="several",
            hint="Name one of these folders. Several adapters are not transferred as one.",
        )
    return path


def adapter_name(path: Path) -> str:
    """What an adapter is called: as its file without the ending, or as its folder where PEFT made one."""
    return path.stem if config_beside(path) is None else _folder(path).name


def adapter_home(path: Path) -> Path:
    """The folder that an adapter lies in; of one in a folder of PEFT's, the folder that this one lies in."""
    return path.parent if config_beside(path) is None else _folder(path).parent


def _folder(path: Path) -> Path:
    """The folder of a file, by a path that has its name."""
    return path.parent.resolve() if path.parent.name in ("", "..") else path.parent


def _adapters_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if (path / CONFIG).is_file())
    except OSError:
        return []
