"""Jobs: what runs in the background while the page asks how far it is.

A job is over for the person the moment it is stopped, although its thread first finishes the module it is at. Nothing is
written after that: the engine asks once more before it begins to write, and from then on a stop waits for the output.
"""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import CancelledError, internal
from lib_transfer.progress import PUBLISHING, remaining, words_for_reading
from lib_transfer.webui.host.host import QueueSlot
from lib_transfer.webui.shell.record import JobRecords

State = Literal["waiting", "running", "stopping", "done", "stopped", "failed"]
Kind = Literal["transfer", "analyse", "convert", "compare", "plan", "batch", "verify"]

KEPT = 30
"""Finished jobs whose results can still be shown."""

_ASK_EVERY = 0.1  # seconds between looks at whether to go on waiting for a lock

logger = logging.getLogger("transfer_lora")


class Job:
    """One press of a button, as the engine's progress and as what the page shows. Safe to use from several threads.

    Args:
        kind: what is done.
        names: the names of the LoRAs, in order, and of what else is done one after another.

    Attributes:
        loras: the names of the LoRAs alone; none where they are not known yet.
        counted: how far a stretch is, in words: the steps that are done, and all of them.
        problem: why there is no result: a message, and what to do about it.
        remarks: sentences to show at the end, however it ends.
        wrote: a function that is told the path of every LoRA that is written.
    """

    counted = "module {} of {}"

    def __init__(self, kind: Kind, names: tuple[str, ...]) -> None:
        self.id = f"task(transfer-lora-{secrets.token_hex(8)})"
        self.kind = kind
        self.names = self.loras = names
        self.state: State = "waiting"
        self.turn: QueueSlot | None = None
        self.on_gpu = False
        self.outcomes: list[Outcome] = []
        self.problem: tuple[str, str] | None = None
        self.remarks: list[str] = []
        self.wrote: Callable[[Path], None] = lambda path: None
        self.current = 0
        self._lock = threading.Lock()
        self._text, self._step, self._steps = "", 0, 0
        self._reading: tuple[str, int, int] | None = None
        self._began = 0.0
        self._stop, self._skip, self._publishing = False, False, False

    # The engine's side.

    def start(self, total: int, what: str) -> None:
        """A stretch of steps begins.

        Raises:
            CancelledError: the job was stopped, or this LoRA skipped, in the meantime.
        """
        with self._lock:
            if self._halted:
                raise CancelledError
            self._text, self._step, self._steps, self._publishing = what, 0, total, False
            self._reading = None
        self._show()

    def step(self, what: str) -> None:
        """One step is done."""
        with self._lock:
            self._step += 1
            self._reading = None
        self._show()

    def reading(self, files: str, done: int, total: int) -> None:
        """Bytes of files are read."""
        with self._lock:
            self._reading = (files, done, total) if done < total else None
        self._show()

    def publishing(self) -> None:
        """The output is being written: from here on a stop waits for it.

        Raises:
            CancelledError: as :meth:`start`.
        """
        with self._lock:
            if self._halted:
                raise CancelledError
            self._text, self._step, self._steps, self._publishing = PUBLISHING, 0, 0, True
            self._reading = None
        self._show()

    def cancelled(self) -> bool:
        """Whether to stop at what is being done."""
        turn = self.turn
        if turn is not None and turn.interrupted():
            self.interrupt()
        if turn is not None and turn.skipped():
            self.skip()
        return self._halted

    # The work's side.

    def go(self) -> None:
        """The job's turn has come.

        Raises:
            CancelledError: it was stopped while it waited.
        """
        with self._lock:
            if self._stop:
                raise CancelledError
            self.state = "running"

    def begin(self, number: int) -> None:
        """The LoRA ``names[number]`` is next.

        Raises:
            CancelledError: the job was stopped.
        """
        with self._lock:
            if self._stop:
                raise CancelledError
            # A person may ask to skip the first one before it is begun.
            self._skip = self._skip and not self._began
            self.current, self._publishing = number, False
            self._text, self._step, self._steps = "Reading the files", 0, 0
            self._reading = None
            self._began = self._began or time.monotonic()

    def settled(self, outcome: Outcome) -> None:
        """A LoRA is through."""
        if outcome.status == "written" and outcome.path is not None:
            self.wrote(outcome.path)
        self.outcomes.append(outcome)

    @property
    def interrupted(self) -> bool:
        """Whether the whole job was stopped."""
        return self._stop

    # The person's side.

    @property
    def active(self) -> bool:
        """Whether it is still going on for the person."""
        return self.state in ("waiting", "running", "stopping")

    def interrupt(self) -> None:
        """Stop; at once, unless an output is being written this very moment."""
        with self._lock:
            if self.active:
                self._stop = True
                self.state = "stopping" if self._publishing else "stopped"
                if self.turn is not None:
                    self.turn.stop()

    def skip(self) -> None:
        """Leave out the LoRA that is being worked on."""
        with self._lock:
            self._skip = self.state == "running" and not self._publishing

    def now(self) -> tuple[float, str, float | None]:
        """How much is done (0 to 1), at what, and the seconds left where they can be told."""
        with self._lock:
            if self.state == "done":
                return 1.0, "", None
            text, done, total = self._at()
            inner = done / total if total else 0.0
            share = min((self.current + (1.0 if self._publishing else inner)) / max(len(self.names), 1), 1.0)
            elapsed = time.monotonic() - self._began if self._began else 0.0
            # How long reading takes says nothing of the rest.
            left = remaining(share, elapsed) if self._reading is None else None
            return share, "skipping this LoRA" if self._skip else text, left

    @property
    def parts(self) -> int:
        """Grows whenever there is something new to show."""
        return len(self.outcomes)

    def also(self) -> tuple[str, ...]:
        """What else was made besides LoRAs, for the sentence at the end."""
        return ()

    def done(self) -> tuple[str, ...]:
        """Sentences to show at the end; none to show how many LoRAs came to which result."""
        return ()

    def halted(self) -> tuple[str, ...]:
        """Sentences to show when the job was stopped; none to show how many LoRAs had been written."""
        return ()

    def finish(self, state: State) -> None:
        """The thread is through."""
        with self._lock:
            self.state = "stopped" if self._stop and state != "failed" else state

    @property
    def _halted(self) -> bool:
        """Whether to stop at what is being done: what comes before the first LoRA cannot be skipped."""
        return self._stop or (self._skip and self._began > 0.0)

    def _at(self) -> tuple[str, int, int]:
        """What is done, in words, and how much of it: steps, or bytes where files are read."""
        if self._reading is not None:
            files, done, total = self._reading
            return words_for_reading(files, done, total), done, total
        counted = f", {self.counted.format(self._step, self._steps)}" if self._steps > 1 else ""
        return f"{self._text}{counted}", self._step, self._steps

    def _show(self) -> None:
        turn = self.turn
        if turn is not None:
            text, done, total = self._at()
            turn.show(self.current, len(self.names), done, total, text if self._reading is not None else self._text)


class Board:
    """Every job, the one that runs and those that wait for it. Jobs of several windows run one after another.

    Args:
        records: where it is noted what the jobs under way have written.

    Attributes:
        records: the same.
    """

    def __init__(self, records: JobRecords) -> None:
        self.records = records
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def get(self, job_id: object) -> Job | None:
        """The job of this id."""
        return self._jobs.get(job_id) if isinstance(job_id, str) else None

    def start(
        self, job: Job, work: Callable[[Job], None], turn: Callable[[], AbstractContextManager[QueueSlot]] | None
    ) -> None:
        """Run ``work`` in a thread as soon as no other job runs, and, where ``turn`` is given, in that turn."""
        with self._lock:
            over = [j.id for j in self._jobs.values() if not j.active]
            for job_id in over[: max(len(over) - KEPT, 0)]:
                del self._jobs[job_id]
            self._jobs[job.id] = job
        job.on_gpu = turn is not None
        self.records.begin(job.id, job.kind, job.loras)
        job.wrote = functools.partial(self.records.wrote, job.id)
        threading.Thread(target=self._run, args=(job, work, turn), name="transfer-lora-job", daemon=True).start()

    def _run(
        self, job: Job, work: Callable[[Job], None], turn: Callable[[], AbstractContextManager[QueueSlot]] | None
    ) -> None:
        with self._one_at_a_time:
            try:
                if turn is None:
                    self._work(job, work)
                else:
                    with turn() as job.turn:
                        self._work(job, work)
            except CancelledError:
                job.finish("stopped")
            except Exception as error:
                logger.exception("Transfer LoRA: the job failed")
                ours = internal(error)
                job.problem = (ours.message, ours.hint)
                job.finish("failed")
            finally:
                job.turn = None
                self.records.end(job.id)

    @staticmethod
    def _work(job: Job, work: Callable[[Job], None]) -> None:
        job.go()
        work(job)
        job.finish("done")


class KeyedLock:
    """Held by one thread at a time for each key, so that no output is made twice at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[str] = set()

    @contextmanager
    def holding(self, key: str, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait until nobody else holds ``key``, and hold it meanwhile.

        Raises:
            CancelledError: ``cancelled`` said so while waiting.
        """
        with self._changed:
            while key in self._held:
                if cancelled():
                    raise CancelledError
                self._changed.wait(_ASK_EVERY)
            self._held.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(key)
                self._changed.notify_all()
