"""The LoRA files in folders, and a name for each. Folders hold links of all kinds; nothing here goes round in circles."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.errors import RequestError
from lib_transfer.formats.peft_folder import CONFIG, WEIGHTS, config_beside

EXTENSIONS = (".safetensors", ".pt", ".ckpt")


@dataclass(frozen=True)
class Found:
    """A file that may be a LoRA.

    Attributes:
        name: the path below its root without the ending, or of the folder that PEFT saved it as; unique among the LoRAs of
            one job.
        path: the file.
        below: the folder below the root that it lies in; "" for the root itself.
    """

    name: str
    path: Path
    below: str = ""


def find(
    folders: Sequence[Path], *, recursive: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Found]:
    """Every file in ``folders`` that may be a LoRA, in the order of the names; a folder within another adds nothing.

    Args:
        folders: the roots.
        recursive: whether sub-folders count.
        include, exclude: patterns for the path below the root, or for the name alone of the file or of PEFT's folder: ``*``
            matches any text, ``?`` any one character. Some of ``include`` must match, where there are any, and none of
            ``exclude``.

    Raises:
        RequestError: a folder is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RequestError(f"The folder {folder} does not exist.", hint="Name a folder with LoRAs in it.")
    chosen: dict[str, Found] = {}
    for found in placed(adapters(folders), folders):
        fits = (recursive or not found.below) and (not include or _matches(found, include))
        if fits and not _matches(found, exclude):
            chosen.setdefault(os.path.join(os.path.realpath(found.path.parent), found.path.name), found)  # noqa: PTH118
    return list(chosen.values())


def placed(names: Mapping[str, Path], roots: Sequence[Path]) -> list[Found]:
    """Adapters by name, each with its place below the first of ``roots`` that it lies in."""
    return [Found(name, path, _below(path, roots)) for name, path in names.items()]


def adapters(folders: Iterable[Path]) -> dict[str, Path]:
    """Every LoRA file by name: its path below the folder, without the ending; of one that PEFT saved, that of its folder.

    Where two files would share a name, the later one keeps its ending, or is named after its folder too.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        # As texts: making paths of thousands of files takes longer than finding them.
        start = len(os.path.join(folder, ""))  # noqa: PTH118
        for path in sorted(walk(folder), key=str.casefold):
            name = path[start:].replace(os.sep, "/")
            stem = _in_folder(name, path, folder) or os.path.splitext(name)[0]  # noqa: PTH122
            free = next((n for n in (stem, name, f"{folder.name}/{name}") if n not in found), None)
            if free is not None:
                found[free] = Path(path)
    return found


def _in_folder(name: str, path: str, root: Path) -> str:
    """The name of an adapter that PEFT saved as a folder; "" for another one."""
    if not name.endswith(WEIGHTS) or config_beside(path) is None:
        return ""
    return name.rpartition("/")[0] or root.absolute().name


def walk(folder: Path) -> Iterator[str]:
    """Every file with an ending of a LoRA in ``folder`` and below; a folder that is reached twice is walked once.

    Hidden folders and files are left out, as the WebUIs do. A folder that cannot be read is empty.
    """
    seen: set[str] = set()
    pending = [str(folder)]
    while pending:
        here = pending.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:
            continue
        pending += [entry.path for entry in listed if _is(entry.is_dir)]
        names = {entry.name for entry in listed}
        bare = {WEIGHTS[1]} if CONFIG in names and WEIGHTS[0] not in names else set()
        yield from (
            e.path for e in listed if (e.name.lower().endswith(EXTENSIONS) or e.name in bare) and _is(e.is_file)
        )


def _is(ask: Callable[[], bool]) -> bool:
    """The answer; a link that leads nowhere, or round in a circle, is neither a folder nor a file."""
    try:
        return ask()
    except OSError:
        return False


def _below(path: Path, roots: Sequence[Path]) -> str:
    home = path.parent if config_beside(path) is None else path.parent.parent
    root = next((root for root in roots if home.is_relative_to(root)), home)
    below = home.relative_to(root).as_posix()
    return "" if below == "." else below


def _matches(found: Found, patterns: Sequence[str]) -> bool:
    name = found.path.name if config_beside(found.path) is None else found.path.absolute().parent.name
    whole = f"{found.below}/{name}" if found.below else name
    return any(fnmatch.fnmatch(text, pattern) for pattern in patterns for text in (whole, name))
