"""A verification as a job of the tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.html import error

if TYPE_CHECKING:
    from lib_transfer.evaluation.movement import Match


@dataclass(frozen=True)
class Verified:
    """What came out.

    Attributes:
        lora: the name of the LoRA.
        matches: by what was put on the target, in the order to show.
        advice: on what to use.
        written: the name of a better LoRA that was written; None for none.
    """

    lora: str
    matches: Mapping[str, Match]
    advice: str
    written: str | None = None


class VerifyJob(Job):
    """One press of Verify.

    Args:
        lora: the name of the LoRA.
        before: what the page shows of earlier jobs, which stays.

    Attributes:
        verified: what came out, once it did.
        problem: why nothing did: a message and a hint.
    """

    def __init__(self, lora: str, before: Sequence[Outcome]) -> None:
        super().__init__("verify", (lora,))
        self.outcomes = list(before)
        self.verified: Verified | None = None
        self.problem: tuple[str, str] | None = None

    def step(self, what: str) -> None:
        """One run of a model is done."""
        with self._lock:
            self._text = what
        super().step(what)

    def now(self) -> tuple[float, str, float | None]:
        """How much is done, at what, and the seconds left."""
        share, text, left = super().now()
        return share, f"{self._text}, run {self._step} of {self._steps}" if self._steps else text, left

    @property
    def runs(self) -> int:
        """How often a model was run."""
        return self._step

    @property
    def parts(self) -> int:
        """Grows when the result is there."""
        return super().parts + (self.verified is not None)

    def done(self) -> str:
        """What there is to say at the end."""
        if self.problem is not None:
            return error(*self.problem)
        written = None if self.verified is None else self.verified.written
        said = "" if written is None else f" Written: {escape(written)}."
        return f"<p>Done: verified, and your checkpoint is loaded again.{said}</p>"

    def halted(self) -> str:
        """What there is to say when it was stopped."""
        return "<p>Stopped. Nothing was verified or written; your checkpoint comes back.</p>"
