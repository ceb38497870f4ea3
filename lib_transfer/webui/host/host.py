"""What the tab needs of the program it lives in. The tab knows this interface and neither of its implementations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host.host import settings

if TYPE_CHECKING:
    from lib_transfer.library.base import Base
    from lib_transfer.models import Model
    from lib_transfer.webui.compare.scene import Scene


@dataclass(frozen=True)
class Active:
    """The checkpoint that pictures are made with.

    Attributes:
        checkpoint: None where there is none at all.
        wanted: the one the person chose, as the program words it; "" where nothing was chosen.
        fallback: whether the chosen one is gone and ``checkpoint`` only stands in for it.
    """

    checkpoint: Checkpoint | None
    wanted: str = ""
    fallback: bool = False


class QueueSlot(Protocol):
    """A turn in the program's queue for the GPU, while it lasts."""

    def show(self, job: int, jobs: int, step: int, steps: int, text: str) -> None:
        """Put the program's own progress bar at ``step`` of ``steps`` in ``job`` of ``jobs``."""

    def interrupted(self) -> bool:
        """Whether the person pressed the program's own interrupt."""

    def skipped(self) -> bool:
        """Whether the person pressed the program's own skip; it answers so once."""

    def stop(self) -> None:
        """Stop what the program itself does in this turn, such as a picture."""


class Opener(Protocol):
    """Brings the checkpoint at a path into memory, in place of whatever was there."""

    def __call__(self, path: Path) -> AbstractContextManager[Model]: ...


class Host(ABC):
    """The program that the tab lives in."""

    @abstractmethod
    def adapter_folders(self) -> tuple[Path, ...]:
        """Folders that LoRAs lie in; the first one is where new ones go."""

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
        """Files that the program loads beside every checkpoint, text encoders among them."""
        return ()

    def files_of(self, checkpoint: Checkpoint) -> tuple[Path, ...]:
        """The checkpoint's file, and those of the text encoders that the program loads beside it.

        Raises:
            TransferError: text encoders are to be looked for, and the checkpoint cannot be read.
        """
        beside = self.encoders()
        if not beside:
            return (checkpoint.path,)
        # torch is imported when it is used
        from lib_transfer.library.base import encoders_among  # noqa: PLC0415

        return (checkpoint.path, *encoders_among(checkpoint.path, beside))

    @abstractmethod
    def stored(self, key: str) -> Any:
        """The stored value of the setting ``key``; None where nothing is stored."""

    @abstractmethod
    def default_cache_folder(self) -> Path:
        """Where caches go unless the settings say otherwise."""

    @abstractmethod
    def adapters_changed(self) -> None:
        """Files were written or removed in the folders: the program should list them again."""

    @abstractmethod
    def gpu_turn(self, task: str) -> AbstractContextManager[QueueSlot]:
        """Wait for a turn in the program's queue, and hold it."""

    def listed_adapter(self, name: str) -> Path | None:
        """The LoRA that ``name`` means in a tag; None where the program does not say."""
        return None

    def draws(self) -> bool:
        """Whether it makes pictures."""
        return False

    def samplers(self) -> tuple[str, ...]:
        """Names of the samplers that pictures can be made with."""
        return ()

    def draw(self, scene: Scene, prompt: str, checkpoint: Checkpoint) -> bytes:
        """A picture of ``scene`` with another prompt, as a JPEG file. Only within a turn in the program's queue."""
        raise NotImplementedError

    def runs(self) -> bool:
        """Whether its models can be run for what they tell."""
        return False

    def latent_space(self, base: Base) -> str:
        """A word for the autoencoder of a checkpoint that can be run.

        Raises:
            UnsupportedError: it is of no kind that can be run.
        """
        raise NotImplementedError

    def models(self, size: tuple[int, int]) -> AbstractContextManager[Opener]:
        """What brings checkpoints into memory, one after the other; at the end the person's own is loaded again.

        Only within a turn in the program's queue.

        Args:
            size: width and height of pictures in pixels; zeros for what a checkpoint was trained on.
        """
        raise NotImplementedError

    def setting(self, key: str) -> Any:
        """The value of one of our settings: the stored one if it is sound, else the default."""
        return settings.by_key(key).sound(self.stored(key))

    def cache_folder(self) -> Path:
        """Where caches go."""
        chosen = str(self.setting("cache_folder")).strip()
        return Path(chosen).expanduser() if chosen else self.default_cache_folder()
