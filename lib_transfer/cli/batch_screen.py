"""What a batch shows on a terminal: the plan, a line for every adapter, and a bar."""

from __future__ import annotations

from typing import TextIO

from lib_transfer.batches.estimate import Estimate
from lib_transfer.batches.report import WAITING, BatchReport
from lib_transfer.batches.watch import SilentWatch, Tally
from lib_transfer.cli import terminal
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.progress import Progress


class Screen(SilentWatch):
    """The watch of a batch on a terminal: a line for every adapter, and a bar below them. Ctrl-C stops the main thread."""

    def __init__(self, report: BatchReport, stream: TextIO) -> None:
        self._report, self._stream = report, stream
        self._tally = Tally(len(report.plan.items), self._draw)
        self._bar = terminal.Line()

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        return self._tally.group(worker, names)

    def settled(self, outcome: Outcome) -> None:
        self._report.settled(outcome)
        self._tally.settled(outcome.name)
        self.say(_line(outcome))
        self._draw()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.clear()
        print(text, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        self._bar.clear()

    def _draw(self) -> None:
        share, text, left = self._tally.now()
        self._bar.draw(share, text, left)


def tell_plan(report: BatchReport, takes: Estimate, stream: TextIO, *, every: bool) -> None:
    """Say what a batch will do; ``every`` file by name, or only those that something is wrong with."""
    planned = report.plan
    lines = [_line(outcome) for outcome in planned.settled.values() if every or outcome.status != "already done"]
    if every:
        lines += [f"{WAITING:15} {item.name}" for item in planned.items]
    lines.append(report.headline)
    if planned.items:
        lines.append(str(takes))
    print("\n".join(lines), file=stream, flush=True)


def _line(outcome: Outcome) -> str:
    """What became of an adapter; what of it was lost, with reasons, in lines of its own."""
    why = f": {outcome.message} {outcome.hint}".rstrip() if outcome.message else ""
    where = f" -> {outcome.path}" if outcome.path is not None else ""
    remarks = "".join(f", {remark}" for remark in outcome.remarks)
    lost = outcome.accounts.told if outcome.accounts is not None else ()
    return "\n".join([f"{outcome.status:15} {outcome.name}{why}{remarks}{where}", *(f"{'':16}{line}" for line in lost)])
