"""What a job is at, as HTML that our javascript reads too: it polls for as long as ``data-state`` says so."""

from __future__ import annotations

import time
from html import escape

from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.html import error

IDLE = '<div class="transfer-lora-status" data-state="idle"></div>'


def refused(problem: str) -> str:
    """The status of a job that was not started; ``problem`` is HTML."""
    return f'<div class="transfer-lora-status" data-state="refused">{problem}</div>'


def status(job: Job) -> str:
    """The status of ``job``."""
    share, text, left = job.now()
    written = sum(outcome.status == "written" for outcome in job.outcomes)
    marks = {
        "state": job.state,
        "share": f"{share:.3f}",
        "done": job.parts,
        "written": written,
        "tick": time.monotonic_ns(),
        **({"task": job.id} if job.on_gpu else {}),
    }
    said = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in marks.items())
    return f'<div class="transfer-lora-status" {said} role="status">{_words(job, share, text, left)}</div>'


def _words(job: Job, share: float, text: str, left: float | None) -> str:
    if job.state == "failed":
        return error(
            f"This is an error in Transfer LoRA itself: {job.failure}",
            "Please report it with the lines in the WebUI's console.",
        )
    if job.state == "done":
        return job.done() or f"<p>{escape(_done(job))}</p>"
    if job.state == "stopped" and job.halted():
        return job.halted()
    if job.state == "stopped":
        done = sum(outcome.status in ("written", "already done") for outcome in job.outcomes)
        return f"<p>Stopped. {_count(done, 'LoRA')} had been written; nothing is half-written.</p>"
    if job.state == "waiting":
        return "<p>Waiting for another job to finish ...</p>"
    place = f"{job.current + 1} of {len(job.names)}: " if len(job.names) > 1 else ""
    time_left = f", about {_clock(left)} left" if left is not None else ""
    what = "Finishing the file being written" if job.state == "stopping" else f"{place}{text}{time_left}"
    return f'<div class="transfer-lora-bar"><div style="width: {100 * share:.1f}%"></div></div><p>{escape(what)}</p>'


def _done(job: Job) -> str:
    counts: dict[str, int] = {}
    for outcome in job.outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    words = {
        "analysed": "analysed, nothing written",
        "written": "written",
        "already done": "there already",
        "nothing carried": "without anything to carry",
        "left out": "skipped",
        "failed": "not transferred",
    }
    said = [f"{n} {words[s]}" for s, n in counts.items()]
    if job.pictures:
        said.append(_count(len(job.pictures), "picture"))
    return f"Done: {', '.join(said)}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
