"""What the page needs from the program it runs in. The page knows this interface and none of its implementations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host import settings
from lib_transfer.webui.host.abilities import Models, Pictures, Prompting, QueueSlot


@dataclass(frozen=True)
class Active:
    """The checkpoint that pictures are made with.

    Attributes:
        checkpoint: the checkpoint; None where there is none at all.
        wanted: the name of the one that was selected; "" where none was.
        fallback: whether the selected one is gone and ``checkpoint`` is used instead.
    """

    checkpoint: Checkpoint | None
    wanted: str = ""
    fallback: bool = False


class Host(ABC):
    """The program that the page runs in.

    Attributes:
        pictures: makes pictures; None where the program makes none.
        models: runs the program's models; None where that cannot be done.
        prompting: changes the prompts of generations; None where there are none.
    """

    pictures: Pictures | None = None
    models: Models | None = None
    prompting: Prompting | None = None

    @abstractmethod
    def adapter_folders(self) -> tuple[Path, ...]:
        """The folders with LoRAs; new ones go into the first."""

    @abstractmethod
    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """Every checkpoint by name, in the program's order."""

    @abstractmethod
    def rescan_checkpoints(self) -> None:
        """Look for new checkpoints on disk."""

    @abstractmethod
    def active(self) -> Active:
        """The active checkpoint. Loads nothing."""

    def encoders(self) -> tuple[Path, ...]:
        """Files that the program loads with every checkpoint, text encoders among them."""
        return ()

    @abstractmethod
    def stored(self, key: str) -> Any:
        """The stored value of the setting ``key``; None where nothing is stored."""

    @abstractmethod
    def default_cache_folder(self) -> Path:
        """The cache folder that is used unless the settings name another."""

    @abstractmethod
    def adapters_changed(self) -> None:
        """Tell the program that files in the LoRA folders were written or removed, so that it lists them again."""

    @abstractmethod
    def gpu_turn(self, task: str) -> AbstractContextManager[QueueSlot]:
        """Wait for a slot in the program's queue, and hold it."""

    def listed_adapter(self, name: str) -> Path | None:
        """The LoRA file that the program itself would load for ``name`` in a tag; None where it does not say."""
        return None

    def setting(self, key: str) -> Any:
        """The value of one of our settings: the stored one if it is valid, else the default."""
        return settings.by_key(key).sound(self.stored(key))

    def cache_folder(self) -> Path:
        """The cache folder."""
        chosen = str(self.setting("cache_folder")).strip()
        return Path(chosen).expanduser() if chosen else self.default_cache_folder()
