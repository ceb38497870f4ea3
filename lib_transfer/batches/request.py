"""What is asked of a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lib_transfer import methods as registry
from lib_transfer.library import request as engine
from lib_transfer.library.destination import TEMPLATE
from lib_transfer.library.request import TransferRequest
from lib_transfer.library.source_checkpoint import Checkpoint
from lib_transfer.methods import Method, Value
from lib_transfer.storage.hashes import Hashes

Existing = Literal["skip", "overwrite", "both"]
"""What to do where an output of ours is in the way that is not the wanted one: leave it alone, retire it, or keep both."""


@dataclass(frozen=True)
class BatchRequest:
    """Everything that the adapters of a batch have in common.

    Attributes:
        target: the checkpoint that they are to work on.
        method, settings: how they are carried; checked as in :func:`lib_transfer.library.request.request`.
        source: the checkpoint that all of them were trained on; None to find each one's own among ``installed``.
        target_encoders, source_encoders: text encoders of these two in files of their own.
        installed: checkpoints that are at hand.
        output: the folder below which the adapters' own folders are mirrored; None for each adapter's own folder.
        template: of the outputs' names.
        existing: see :data:`Existing`.
        tree: the folders in which no two LoRAs may share a file name, because WebUIs know them by it.
        copies: whether transferred copies are carried on, too.
    """

    target: Checkpoint
    method: str
    settings: Mapping[str, Value]
    source: Checkpoint | None = None
    target_encoders: tuple[Path, ...] = ()
    source_encoders: tuple[Path, ...] = ()
    installed: tuple[Checkpoint, ...] = ()
    output: Path | None = None
    template: str = TEMPLATE
    existing: Existing = "skip"
    tree: tuple[Path, ...] = ()
    copies: bool = False

    @property
    def how(self) -> Method:
        """The method."""
        return registry.get(self.method)

    def of(
        self, adapter: Path, source: Checkpoint | None, hashes: Hashes, cancelled: Callable[[], bool]
    ) -> TransferRequest:
        """The request for one adapter.

        Raises:
            TransferError: as :func:`lib_transfer.library.request.request`.
        """
        return engine.request(
            adapter,
            target=(self.target.path, *self.target_encoders),
            source=(source.path, *self.source_encoders) if source else None,
            method=self.method,
            settings=self.settings,
            hashes=hashes,
            cancelled=cancelled,
        )
