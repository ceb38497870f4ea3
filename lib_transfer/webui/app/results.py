"""The results of a window's job, which all views show together."""

from __future__ import annotations

from typing import Any

from lib_transfer.webui.compare.events import CompareEvents
from lib_transfer.webui.shell.events import TabEvents, ViewEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.transfer.events import TransferEvents
from lib_transfer.webui.verify.events import VerifyEvents


class ResultEvents(ViewEvents):
    """The event that brings the results.

    Args:
        tab: what the views share.
        transfer, compare, verify: the views with results of a job.
    """

    def __init__(self, tab: TabEvents, transfer: TransferEvents, compare: CompareEvents, verify: VerifyEvents) -> None:
        super().__init__(tab)
        self._views = (transfer.results, compare.pictures, verify.shown, verify.cost)

    def shown(self, values: FormValues) -> dict[str, Any]:
        """The results of every view as they are now, and the status."""
        return self.ended(values, self._results)

    def _results(self, values: FormValues) -> dict[str, Any]:
        return {name: update for view in self._views for name, update in view(values).items()}
