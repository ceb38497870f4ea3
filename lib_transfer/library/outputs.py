"""The outputs that are there already, found by what they say of themselves, and the names that are taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib_transfer.library.index import FileIndex
from lib_transfer.library.request import TransferRequest
from lib_transfer.library.walk import walk


@dataclass(frozen=True)
class Copy:
    """An output of ours: its file, and the request that it is the output of, as JSON."""

    path: Path
    request: str


@dataclass
class Outputs:
    """What lies in the folders of a batch.

    Attributes:
        copies: outputs of ours by the name of the adapter that each was made from.
        stems: every file name in the folders without its ending, casefolded, with the files of that name.
    """

    copies: dict[str, list[Copy]] = field(default_factory=dict)
    stems: dict[str, list[Path]] = field(default_factory=dict)

    @classmethod
    def within(cls, folders: Iterable[Path], index: FileIndex, check: Callable[[], None]) -> Outputs:
        """Those in ``folders`` and below; ``check`` is called between files and may raise."""
        found = cls()
        for name in dict.fromkeys(name for folder in folders for name in walk(folder)):
            check()
            path = Path(name)
            found.stems.setdefault(path.stem.casefold(), []).append(path)
            facts = index.output(path)
            if facts is not None and facts.request and (adapter := _adapter_of(facts.request)) is not None:
                found.copies.setdefault(adapter, []).append(Copy(path, facts.request))
        return found

    def of(self, request: TransferRequest) -> list[Path]:
        """Every output that says it is that of an equal request."""
        wanted = request.to_json()
        return [copy.path for copy in self.copies.get(request.adapter_name, []) if copy.request == wanted]


def _adapter_of(request: str) -> str | None:
    """The adapter that a request of ours names; None where it is none of ours, whatever it is."""
    try:
        name = json.loads(request)["adapter"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) else None
