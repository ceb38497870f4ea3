"""How many bytes are read from files."""

from __future__ import annotations

from typing import Any, BinaryIO

import pytest

from lib_transfer.formats import regular_file


class Counting:
    """A stream that counts what is read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.read = 0

    def readinto(self, buffer: memoryview) -> int:
        count: int = self.stream.readinto(buffer)  # type: ignore[attr-defined]
        self.read += count
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Count:
    """Counts what all files together are read from when it is made on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams: list[Counting] = []
        original = regular_file.open_regular

        def counted(path: Any) -> Any:
            stream, state = original(path)
            self.streams.append(Counting(stream))
            return self.streams[-1], state

        monkeypatch.setattr(regular_file, "open_regular", counted)

    @property
    def bytes(self) -> int:
        """Since it was made."""
        return sum(stream.read for stream in self.streams)
