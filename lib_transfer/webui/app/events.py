"""The events of a page. Importing this module imports the engine."""

from __future__ import annotations

from lib_transfer.webui.app.housekeeping import Housekeeping
from lib_transfer.webui.app.results import ResultEvents
from lib_transfer.webui.batch.events import BatchEvents
from lib_transfer.webui.compare.events import CompareEvents
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.prompt.generation import Prompts
from lib_transfer.webui.prompt.resolution import Resolver
from lib_transfer.webui.shell.events import TabEvents
from lib_transfer.webui.transfer.events import TransferEvents
from lib_transfer.webui.verify.events import VerifyEvents


class PageEvents:
    """The events of every view of a page, and what they share."""

    def __init__(self, host: Host) -> None:
        self.tab = TabEvents(host)
        self.transfer = TransferEvents(self.tab)
        self.batch = BatchEvents(self.tab)
        self.compare = CompareEvents(self.tab)
        self.verify = VerifyEvents(self.tab)
        self.results = ResultEvents(self.tab, self.transfer, self.compare, self.verify)
        self.housekeeping = Housekeeping(self.tab)

    def prompts(self) -> Prompts:
        """An object that rewrites the prompts of generations."""
        return Prompts(self.tab.host, Resolver(self.tab.host, self.tab.index, self.tab.once))
