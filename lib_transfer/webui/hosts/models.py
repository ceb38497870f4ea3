"""The models of the WebUI that loaded the extension, run for an evaluation."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lib_transfer.webui.host.abilities import Opener

if TYPE_CHECKING:
    from lib_transfer.library.base import Base


class ProgramModels:
    """Runs the WebUI's own models, loaded as the WebUI loads them."""

    def latent_space(self, base: Base) -> str:
        """The autoencoder follows from the architecture.

        Raises:
            UnsupportedError: models of this kind cannot be run.
        """
        return _running().latent_space_of(base)

    def opener(self, size: tuple[int, int]) -> AbstractContextManager[Opener]:
        """A function that loads checkpoints one after another; see :func:`running.borrowed`."""
        return _running().borrowed(size)


def _running() -> Any:
    # It imports the engine, which nothing else at the program's start needs.
    return importlib.import_module("lib_transfer.webui.hosts.running")
