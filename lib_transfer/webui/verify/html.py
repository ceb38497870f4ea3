"""The result of a verification as HTML."""

from __future__ import annotations

from markupsafe import Markup

from lib_transfer.webui.shell.html import render
from lib_transfer.webui.verify.job import Verified


def verdicts(verified: Verified | None) -> Markup | str:
    """The LoRAs one below the other, each with its match and its verdict."""
    if verified is None:
        return ""
    return render(
        "verdicts",
        lora=verified.lora,
        matches=verified.matches,
        advice=verified.advice,
        written=verified.written,
    )
