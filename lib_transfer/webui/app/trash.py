"""The trash for transferred LoRAs: files are renamed into a folder ``trash``, and back.

``trash/N/SUB-FOLDER/NAME.safetensors.trash`` with its side files beside it. N is the first number under which none of the
names is taken. The WebUIs and we go by the end of a file name: nothing in the trash is a LoRA for any of them, whatever
they do with hidden folders. Within one file system a rename is one step, so a file is always in one of its two places.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_transfer.formats.sidecars import plan_sidecars

FOLDER, ENDING = "trash", ".trash"

_NUMBER = re.compile(r"[1-9]\d*")


@dataclass(frozen=True)
class Discarded:
    """A LoRA in the trash.

    Attributes:
        name: what it is called in lists: the number in the trash, and its place before.
        path: where it lies.
        home: where it was.
    """

    name: str
    path: Path
    home: Path

    @property
    def side_files(self) -> list[Path]:
        """Its previews, notes and so on, in the trash."""
        return side_files(self.path.with_suffix(""))

    def size(self) -> int:
        """Bytes of the LoRA and its side files."""
        return size_of([self.path, *self.side_files])


def side_files(adapter: Path) -> list[Path]:
    """The files beside a LoRA that belong to it."""
    return [side.source for side in plan_sidecars(adapter, adapter, card_version=None, note="")]


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of those that are there."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def discard(adapter: Path, base: Path) -> None:
    """Rename a LoRA and its side files into the trash of the folder ``base``, which it lies in.

    Raises:
        OSError: it cannot be renamed. The LoRA goes first: what fails afterwards leaves side files where they are.
    """
    sides = side_files(adapter)
    places = (base / FOLDER / str(number) / adapter.parent.relative_to(base) for number in itertools.count(1))
    names = [adapter.name + ENDING, *(side.name for side in sides)]
    place = next(place for place in places if _free(place, names))
    place.mkdir(parents=True, exist_ok=True)
    for path, name in zip([adapter, *sides], names, strict=True):
        path.rename(place / name)


def restore(discarded: Discarded) -> Path:
    """Rename a LoRA and its side files back; where a name is taken now, they get the first free number.

    Returns:
        Where the LoRA is.

    Raises:
        OSError: it cannot be renamed. The LoRA goes last: what fails before leaves it in the trash, to be restored again.
    """
    sides, home = discarded.side_files, discarded.home
    stem = discarded.path.with_suffix("").stem
    endings = [*(side.name.removeprefix(stem) for side in sides), home.suffix]
    stems = itertools.chain([home.stem], (f"{home.stem}_{number}" for number in itertools.count(2)))
    free = next(each for each in stems if _free(home.parent, [each + ending for ending in endings]))
    home.parent.mkdir(parents=True, exist_ok=True)
    for path, ending in zip([*sides, discarded.path], endings, strict=True):
        path.rename(home.with_name(free + ending))
    _tidy(discarded.path.parent)
    return home.with_name(free + home.suffix)


def delete(discarded: Discarded) -> None:
    """Remove a LoRA in the trash, and its side files, for good.

    Raises:
        OSError: it cannot be removed.
    """
    for path in (*discarded.side_files, discarded.path):
        path.unlink()
    _tidy(discarded.path.parent)


def contents(roots: Sequence[Path]) -> list[Discarded]:
    """What is in the trash folders in ``roots`` and below, in the order of the names."""
    found: dict[str, Discarded] = {}
    for root in roots:
        for folder, names, _ in os.walk(root):
            if FOLDER in names:
                names.remove(FOLDER)
                for one in _within(Path(folder), root):
                    found.setdefault(os.path.realpath(one.path), one)
    return sorted(found.values(), key=lambda one: one.name.casefold())


def _within(base: Path, root: Path) -> Iterator[Discarded]:
    for folder, _, names in os.walk(base / FOLDER):
        parts = Path(folder).relative_to(base / FOLDER).parts
        if not parts or not _NUMBER.fullmatch(parts[0]):
            continue
        for name in names:
            home = base.joinpath(*parts[1:], name.removesuffix(ENDING))
            if name.endswith(ENDING) and home.suffix == ".safetensors":
                place = home.relative_to(root).with_suffix("").as_posix()
                yield Discarded(f"{place} ({parts[0]})", Path(folder, name), home)


def _free(folder: Path, names: Iterable[str]) -> bool:
    return not any(os.path.lexists(folder / name) for name in names)  # a link to nowhere takes a name too


def _tidy(folder: Path) -> None:
    """Remove what is empty now, up to the trash folder itself."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        while folder.name != FOLDER:
            folder = folder.parent
            folder.rmdir()
