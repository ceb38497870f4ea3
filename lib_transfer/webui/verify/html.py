"""The result of a verification as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lib_transfer.webui.shell.html import render
from lib_transfer.webui.verify.kept import Verified


def verdicts(verified: Sequence[Verified]) -> Markup | str:
    """The first verification: the LoRAs one below the other, each with its gain and its verdict. The others folded."""
    return render("verdicts", verified=verified) if verified else ""
