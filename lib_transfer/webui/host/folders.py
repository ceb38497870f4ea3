"""The two folders that our settings name: they can be set by anyone who can change settings, so each is looked at first."""

from __future__ import annotations

import re
from pathlib import Path

from lib_transfer.errors import RequestError
from lib_transfer.formats.naming import safe_stem
from lib_transfer.storage.cache import KINDS

_CHOOSE = "Choose another under Settings, Transfer LoRA."

COMPARISONS = "comparisons"
"""The folder in a cache folder that holds the pictures of comparisons."""

JOBS = "jobs"
"""The folder in a cache folder that holds the records of jobs that are under way."""

# What a cache folder of ours holds: entries, what is remembered of files, comparisons, jobs, and the standalone server's
# settings.
_INDEX = re.compile(r"files-\d+\.sqlite3")
_OURS = re.compile(
    rf"{'|'.join(KINDS)}|files|{COMPARISONS}|{JOBS}|settings\.json|file-index\.json|files-\d+\.sqlite3(-\w+)?|\..+\.part"
)


def cache_folder(text: str) -> Path | None:
    """The cache folder that the settings name; None for the usual one."""
    path = Path(text.strip())
    try:
        return path.expanduser() if text.strip() else None
    except RuntimeError:  # there is no such user
        return path


def check_cache_folder(folder: Path) -> None:
    """Let only a folder pass that is new, empty or a cache of ours: files in a cache are removed when it is full.

    Raises:
        RequestError: it is another folder, or cannot be looked into.
    """
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "this is no name of a folder"
        raise RequestError(f"The cache folder {folder} is not used: {why}.", hint=_CHOOSE) from error
    if any(map(_INDEX.fullmatch, names)) or all(map(_OURS.fullmatch, names)):
        return
    raise RequestError(
        f"The cache folder {folder} is not used: it holds files that are not Transfer LoRA's.",
        hint="Choose an empty folder, or one that does not exist yet, under Settings, Transfer LoRA.",
    )


def sub_folder(text: str, root: Path) -> Path | None:
    """The folder that the settings name for new files, whether it exists or not; None for that of each LoRA.

    Args:
        text: the setting.
        root: the LoRA folder.

    Raises:
        RequestError: it is not a folder within ``root``, by its name or because a link leads out.
    """
    text = text.strip()
    if not text:
        return None
    parts = re.split(r"[/\\]", text)
    # A text that begins with a separator, a drive or ~ is a path of its own.
    if not parts[0].strip() or ":" in parts[0] or parts[0].strip().startswith("~"):
        raise _leaves(text)
    parts = [part.strip() for part in parts if part.strip(" .") or part.strip() == ".."]
    if ".." in parts:
        raise _leaves(text)
    folder = root.joinpath(*map(safe_stem, parts)) if parts else None
    if folder is not None:
        check_within(folder, root, text)
    return folder


def check_within(folder: Path, root: Path, text: str) -> None:
    """Let only a folder pass that is in ``root`` when all links are followed.

    Raises:
        RequestError: it is not, or its links go round in a circle.
    """
    try:
        within = folder.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        within = False
    if not within:
        raise _leaves(text)


def _leaves(text: str) -> RequestError:
    return RequestError(f"The output sub-folder {text[:200]} leads out of the LoRA folder.", hint=_CHOOSE)
