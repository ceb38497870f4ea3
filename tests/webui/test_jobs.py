"""What a job remembers of a person's wish to leave a LoRA out."""

import pytest

from lib_transfer.errors import CancelledError
from lib_transfer.webui.shell.jobs import Job


def test_a_skip_before_the_first_lora_is_begun_leaves_that_one_out() -> None:
    job = Job("transfer", ("one", "two"))
    job.go()
    job.skip()
    # What comes before the first LoRA goes on.
    assert not job.cancelled()
    job.start(3, "reading the folder")

    job.begin(0)
    assert job.cancelled() and not job.interrupted
    with pytest.raises(CancelledError):
        job.start(3, "transfer")

    job.begin(1)
    assert not job.cancelled()
    job.start(3, "transfer")
