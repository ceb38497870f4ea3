"""The generations of the WebUI that loaded the extension: what their prompts name, and their progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host import files
from lib_transfer.webui.host.abilities import QueueSlot
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.hosts.modules import Slot, described, module

# What the WebUI's progress bar is made from.
_PROGRESS = ("job_count", "job_no", "sampling_steps", "sampling_step", "textinfo")


class ProgramPrompting:
    """Looks up what prompts name, and borrows the progress bar of a generation."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def adapter_named(self, name: str) -> Path | None:
        """The file that the Lora extension lists for ``name``, else one of that path or name on disk."""
        found = self._host.listed_adapter(name)
        if found is None and name:
            names = files.adapters(self._host.adapter_folders())
            found = names.get(name) or names.get(files.by_card(name, names) or "")
        if found is None and name:
            # It may be the alias of a new file.
            self._host.adapters_changed()
            found = self._host.listed_adapter(name)
        return found

    def checkpoint_of(self, info: Any) -> Checkpoint:
        """The checkpoint that the WebUI describes by ``info``."""
        return described(info)

    def checkpoint_named(self, name: str) -> Checkpoint | None:
        """The checkpoint that the WebUI would take for ``name``."""
        info = module("sd_models").get_closet_checkpoint_match(name)
        return described(info) if info is not None else None

    @contextmanager
    def within_generation(self, text: str) -> Iterator[QueueSlot]:
        """Use the generation's progress bar and interrupt; the bar shows its own progress again at the end."""
        state = module("shared").state
        kept = {name: getattr(state, name, None) for name in _PROGRESS}
        slot = Slot(state, "Transfer LoRA: ")
        slot.show(0, 1, 0, 1, text)
        try:
            yield slot
        finally:
            for name, value in kept.items():
                setattr(state, name, value)
