"""A batch as a job of the tab: its plan, its table, and the LoRAs that were left out meanwhile."""

from __future__ import annotations

from lib_transfer.batches.report import BatchReport
from lib_transfer.batches.watch import ProgressWatch, Tally
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.progress import Progress
from lib_transfer.webui.shell.jobs import Job


class BatchJob(Job):
    """One press of Plan or Run.

    Attributes:
        report: the plan and what has become of it; None while it is made.
        said: sentences to show at the end.
    """

    counted = "{} of {}"

    def __init__(self, *, converts: bool) -> None:
        super().__init__("batch" if converts else "plan", ())
        self.report: BatchReport | None = None
        self.said: list[str] = []
        self._tally: Tally | None = None
        self._left: set[str] = set()

    def planned(self, report: BatchReport) -> BatchWatch:
        """The plan is there, and the conversion begins; what is to be told of it."""
        self._tally = Tally(len(report.plan.items))
        self.report = report
        return BatchWatch(self, self._tally)

    def settled(self, outcome: Outcome) -> None:
        """A LoRA is through.

        Raises:
            CancelledError: the job was stopped meanwhile.
        """
        assert self.report is not None
        assert self._tally is not None
        self.report.settled(outcome)
        self._tally.settled(outcome.name)
        super().settled(outcome)
        self.begin(0)

    @property
    def parts(self) -> int:
        """Grows with every row of the table that changes."""
        return 0 if self.report is None else 1 + len(self.report.outcomes)

    def now(self) -> tuple[float, str, float | None]:
        """How much is done, at what, and the seconds left."""
        if self._tally is not None:
            return self._tally.now()
        return super().now()

    def done(self) -> tuple[str, ...]:
        """Sentences to show at the end."""
        return tuple(self.said)

    def leave_out(self, name: object) -> None:
        """Leave out a LoRA that nothing has become of yet."""
        if isinstance(name, str) and self.report is not None and name in self.report.plan.facts:
            self._left.add(name)

    @property
    def left(self) -> frozenset[str]:
        """The LoRAs that were left out."""
        return frozenset(self._left)


class BatchWatch(ProgressWatch):
    """The watch of a batch that is converted one group at a time, in this process."""

    def __init__(self, job: BatchJob, tally: Tally) -> None:
        super().__init__(job)
        self._batch, self._tally = job, tally

    def group(self, worker: int, names: tuple[str, ...]) -> Progress:
        self._group = self._tally.group(worker, names)
        return self

    def start(self, total: int, what: str) -> None:
        self._batch.start(total, what)
        self._group.start(total, what)

    def step(self, what: str) -> None:
        self._batch.step(what)
        self._group.step(what)

    def reading(self, files: str, done: int, total: int) -> None:
        self._batch.reading(files, done, total)
        self._group.reading(files, done, total)

    def publishing(self) -> None:
        self._batch.publishing()
        self._group.publishing()

    def left_out(self, name: str) -> bool:
        return name in self._batch.left
