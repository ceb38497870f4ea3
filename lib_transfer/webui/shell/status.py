"""What a job is doing, as HTML that our JavaScript reads too: it polls for as long as ``data-state`` says."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lib_transfer.webui.shell.html import render

if TYPE_CHECKING:
    from lib_transfer.webui.shell.jobs import Job
    from lib_transfer.webui.shell.record import Unfinished

WORDS = {
    "analysed": "analysed, nothing written",
    "written": "written",
    "already done": "there already",
    "nothing carried": "nothing to write",
    "left out": "skipped",
    "failed": "not transferred",
}
"""What became of a LoRA, by the status of its outcome, in the words of the page."""

GOOD = {"to convert", "analysed", "written", "already done"}
"""The statuses that are no problem."""


def idle() -> Markup:
    """The status where there is no job."""
    return _html({"state": "idle"})


def refused(problem: tuple[str, str]) -> Markup:
    """The status of a job that was not started, with the problem and what to do about it."""
    return _html({"state": "refused"}, problem=problem)


def unfinished(job: Unfinished) -> Markup:
    """The status of a job that an earlier start of the WebUI did not end."""
    return _html({"state": "unfinished", "tick": time.monotonic_ns()}, lines=(job.sentence,))


def status(job: Job | None) -> Markup:
    """The status of ``job``."""
    if job is None:
        return idle()
    share, text, left = job.now()
    marks = {
        "state": job.state,
        "share": f"{share:.3f}",
        "done": job.parts,
        "written": sum(outcome.status == "written" for outcome in job.outcomes),
        "tick": time.monotonic_ns(),
        **({"task": job.id} if job.on_gpu else {}),
    }
    if job.state == "failed":
        return _html(marks, problem=job.problem, lines=tuple(job.remarks))
    if job.state == "done":
        lines = job.done() or (() if job.problem else (_done(job),))
        return _html(marks, problem=job.problem, lines=(*lines, *job.remarks))
    if job.state == "stopped":
        return _html(marks, lines=(*(job.halted() or (_stopped(job),)), *job.remarks))
    if job.state == "waiting":
        return _html(marks, lines=("Waiting for another job to finish ...",))
    return _html(marks, bar=share, lines=(_running(job, text, left),))


def _html(
    marks: dict[str, Any],
    *,
    problem: tuple[str, str] | None = None,
    bar: float | None = None,
    lines: tuple[str, ...] = (),
) -> Markup:
    return render("status", marks=marks, problem=problem, bar=bar, lines=lines)


def _running(job: Job, text: str, left: float | None) -> str:
    if job.state == "stopping":
        return "Finishing the file being written"
    place = f"{job.current + 1} of {len(job.names)}: " if len(job.names) > 1 else ""
    return f"{place}{text}{f', about {_clock(left)} left' if left is not None else ''}"


def _stopped(job: Job) -> str:
    done = sum(outcome.status in ("written", "already done") for outcome in job.outcomes)
    return f"Stopped. {done} LoRA{'' if done == 1 else 's'} had been written; nothing is half-written."


def _done(job: Job) -> str:
    counts = Counter(outcome.status for outcome in job.outcomes)
    return f"Done: {', '.join([*(f'{n} {WORDS[s]}' for s, n in counts.items()), *job.also()])}."


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
