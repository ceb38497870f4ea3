"""What several parts use of the WebUI's own modules, which are imported when they are used: not all exist at the start."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lib_transfer.library.checkpoints import Checkpoint


def module(name: str) -> Any:
    """The WebUI's module ``modules.NAME``."""
    return importlib.import_module(f"modules.{name}")


def described(info: Any) -> Checkpoint:
    """The checkpoint that the WebUI describes by ``info`` (``sd_models.CheckpointInfo``)."""
    path = Path(info.filename)
    name = str(getattr(info, "name", "") or path.name).replace("\\", "/").lstrip("/")
    return Checkpoint(name, path, getattr(info, "sha256", None) or None, getattr(info, "hash", None) or None)


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
