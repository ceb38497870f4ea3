"""What several parts use of the WebUI's own modules, which are imported when they are used: not all exist at the start."""

from __future__ import annotations

import importlib
import importlib.util
import time
from pathlib import Path
from typing import Any, Literal

from lib_transfer.library.checkpoints import Checkpoint


def module(name: str) -> Any:
    """The WebUI's module ``modules.NAME``."""
    return importlib.import_module(f"modules.{name}")


def described(info: Any) -> Checkpoint:
    """The checkpoint that the WebUI describes by ``info`` (``sd_models.CheckpointInfo``)."""
    path = Path(info.filename)
    name = str(getattr(info, "name", "") or path.name).replace("\\", "/").lstrip("/")
    return Checkpoint(name, path, getattr(info, "sha256", None) or None, getattr(info, "hash", None) or None)


def listed(path: Path) -> Any:
    """The WebUI's description of the checkpoint at ``path``; None where its list has none.

    The WebUI empties its list while it scans its folders anew, in any thread, so we look again for some seconds.
    """
    for _ in range(30):
        found = list(module("sd_models").checkpoints_list.values())
        info = next((info for info in found if Path(info.filename) == path), None)
        if info is not None or not path.is_file():
            return info
        time.sleep(0.1)
    return None


def way_of_loading() -> Literal["a1111", "forge"] | None:
    """The way in which the WebUI loads its models: as A1111 does, as Forge does, or None for one that we do not know."""
    models = module("sd_models")
    if hasattr(getattr(models, "model_data", None), "forge_loading_parameters"):
        return "forge"
    # Other relatives of Forge load as A1111 does, but build different objects.
    known = hasattr(models, "SkipWritingToConfig") and not _has("modules_forge")
    return "a1111" if known else None


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        return False


class Slot:
    """A slot of the WebUI's queue: while it is held, ``shared.state`` belongs to us.

    Args:
        state: ``shared.state``.
        prefix: what stands before every text in the progress bar.
    """

    def __init__(self, state: Any, prefix: str = "") -> None:
        self._state = state
        self._prefix = prefix

    def show(self, job: int, jobs: int, step: int, steps: int, text: str) -> None:
        """Set the WebUI's progress bar."""
        self._state.job_count, self._state.job_no = jobs, job
        self._state.sampling_steps, self._state.sampling_step = max(steps, 1), step
        self._state.textinfo = self._prefix + text

    def interrupted(self) -> bool:
        """Whether Interrupt was pressed, or in newer programs "stop after this one"."""
        return bool(self._state.interrupted or getattr(self._state, "stopping_generation", False))

    def skipped(self) -> bool:
        """Whether Skip was pressed since the last call."""
        skipped, self._state.skipped = bool(self._state.skipped), False
        return skipped

    def stop(self) -> None:
        """Do what the Interrupt button does."""
        self._state.interrupted = True
