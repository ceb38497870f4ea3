"""The models of the WebUI that loaded the extension, run for an evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager

from lib_transfer.library.base import Base
from lib_transfer.webui.host.abilities import Opener
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.hosts import running
from lib_transfer.webui.hosts.running.kinds import latent_space_of


class ProgramModels:
    """Runs the WebUI's own models, loaded as the WebUI loads them."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def latent_space(self, base: Base) -> str:
        """The autoencoder follows from the architecture.

        Raises:
            UnsupportedError: models of this kind cannot be run.
        """
        return latent_space_of(base)

    def opener(self, size: tuple[int, int]) -> AbstractContextManager[Opener]:
        """A function that loads checkpoints one after another; see :func:`running.borrowed`."""
        return running.borrowed(size, self._host.encoders())
