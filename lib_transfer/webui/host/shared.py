"""What strangers may see: where others can reach the server, no path of its disk stands in the page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from markupsafe import escape

# A path that begins at the root or at a drive, in a text or in HTML, without its last part. Addresses, closing tags and the
# data of pictures have no path; those are matched first, and kept.
_KEPT = r"data:[^\"'\s]*|\w+://\S*"
_NAME = r"[^/\\\s\"'<>|&]+"
_FOLDERS = rf"(?<![\w/:<.~-])/(?:{_NAME}/)+|(?<!\w)[A-Za-z]:[/\\]+(?:{_NAME}[/\\]+)*"
_PATHS = re.compile(f"({_KEPT})|{_FOLDERS}")


def without_paths(text: str, folders: Iterable[Path]) -> str:
    """``text`` or HTML with every absolute path cut short: relative to one of ``folders``, else to the last part."""
    known = sorted({str(folder) for folder in folders}, key=len, reverse=True)
    for folder in known:
        for name in dict.fromkeys((folder, str(escape(folder)))):
            # A folder itself is named after its last part, what is in it after its place there.
            text = re.sub(rf"{re.escape(name)}[/\\](?=[^\s<\"'])", "", text)
            text = re.sub(rf"{re.escape(name)}(?![\w.-])", lambda _, f=folder: str(escape(Path(f).name)), text)
    return _PATHS.sub(lambda match: match.group(1) or "", text)
