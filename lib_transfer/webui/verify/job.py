"""A verification as a job of the tab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.verify.kept import Verified


class VerifyJob(Job):
    """One press of Verify.

    Args:
        lora: the name of the LoRA.
        output: the transferred LoRA that is verified.
        before: what the page shows of earlier jobs, which stays.

    Attributes:
        verified: what came out, once it did.
    """

    counted = "run {} of {}"

    def __init__(self, lora: str, output: Path, before: Sequence[Outcome]) -> None:
        super().__init__("verify", (lora,))
        self.output, self.outcomes = output, list(before)
        self.verified: Verified | None = None

    def step(self, what: str) -> None:
        """One run of a model is done."""
        with self._lock:
            self._text = what
        super().step(what)

    @property
    def runs(self) -> int:
        """How often a model was run."""
        return self._step

    @property
    def parts(self) -> int:
        """Grows when the result is there."""
        return super().parts + (self.verified is not None)

    def done(self) -> tuple[str, ...]:
        """The sentence to show at the end."""
        if self.problem is not None:
            return ()
        return ("Done: verified, and your checkpoint is loaded again.",)

    def halted(self) -> tuple[str, ...]:
        """The sentence to show when the job was stopped."""
        return ("Stopped. Nothing was verified; your checkpoint comes back.",)
