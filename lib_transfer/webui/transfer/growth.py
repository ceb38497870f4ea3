"""How much the cache has grown in a job, which is told where it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lib_transfer.formatting import size
from lib_transfer.storage.cache import Cache
from lib_transfer.webui.host.settings import by_key
from lib_transfer.webui.shell.html import render
from lib_transfer.webui.shell.jobs import Job

NOTICEABLE = 50_000_000
"""Bytes of growth that are worth a sentence."""


@contextmanager
def growth_told(cache: Cache, job: Job) -> Iterator[None]:
    """Adds a remark to ``job`` if the cache grows noticeably while this lasts, whatever becomes of the job."""
    before = cache.contents().total_bytes
    try:
        yield
    finally:
        after = cache.contents().total_bytes
        if after - before >= NOTICEABLE:
            text = sentence(after - before, after, cache.limit)
            job.remarks.append(render("growth", text=text, key="cache_size"))


def sentence(grown: int, total: int, limit: int) -> str:
    """What a person may want to know of the cache once it has grown; all in bytes."""
    return (
        f"The cache grew by {size(grown)} to {size(total)}; it may take {size(limit)}. What is in it makes further transfers "
        f'between these checkpoints quicker. Its limit is the setting "{by_key("cache_size").label}" under Settings, '
        "Transfer LoRA, where it can be emptied too."
    )
