"""What the page needs from the program it runs in. The page knows this interface and none of its implementations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_transfer.errors import RequestError
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host import folders, settings
from lib_transfer.webui.host.abilities import Models, Pictures, Prompting, QueueSlot
from lib_transfer.webui.host.shared import without_paths


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
    _last_cache_folder: Path | None = None

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

    def shared(self) -> bool:
        """Whether others than the person at this machine may see the page."""
        return False

    def shown(self, text: str) -> str:
        """A text or HTML as the page may show it: without the paths of this machine, if strangers may see it."""
        if not self.shared():
            return text
        files = [checkpoint.path for checkpoint in self.checkpoints().values()]
        folders = [*self.adapter_folders(), *(path.parent for path in (*files, *self.encoders())), *self.own_folders()]
        return without_paths(text, folders)

    def own_folders(self) -> tuple[Path, ...]:
        """Further folders that may be named in the page."""
        return (self.cache_folder(),)

    def listed_adapter(self, name: str) -> Path | None:
        """The LoRA file that the program itself would load for ``name`` in a tag; None where it does not say."""
        return None

    def setting(self, key: str) -> Any:
        """The value of one of our settings: the stored one if it is valid, else the default."""
        return settings.by_key(key).sound(self.stored(key))

    def cache_folder(self) -> Path:
        """The cache folder: that of the settings if it may be used, else the one before."""
        chosen = folders.cache_folder(str(self.setting("cache_folder")))
        if chosen is not None and self.problem_of("cache_folder"):
            return self._last_cache_folder or self.default_cache_folder()
        self._last_cache_folder = chosen or self.default_cache_folder()
        return self._last_cache_folder

    def problem_of(self, key: str, value: object = None) -> str:
        """Why the folder of a setting is not used, in a sentence; "" where it is, and for other settings.

        Args:
            key: the setting.
            value: a value that is not stored yet; None for the stored one.
        """
        text = str(self.setting(key) if value is None else value)
        try:
            if key == "cache_folder" and (chosen := folders.cache_folder(text)) is not None:
                folders.check_cache_folder(chosen)
            elif key == "output_folder":
                folders.sub_folder(text, self.adapter_folders()[0])
        except RequestError as error:
            return str(error)
        return ""
