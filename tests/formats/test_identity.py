"""The hashes are the ones the hosts and kohya show, re-stated here from their definitions."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from lib_transfer.errors import BadFileError, CancelledError
from lib_transfer.formats.identity import addnet_hash, file_sha256, legacy_a1111_hash, stamp

from .builders import save


@pytest.mark.parametrize("size", [0, 1, 0x100000, 0x100001, 0x10FFFF, 0x110000, 0x110001, 9 << 20])
def test_hashes_of_files_of_all_sizes(size: int, tmp_path: Path) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "x"
    path.write_bytes(content[:size])
    assert file_sha256(path) == hashlib.sha256(content[:size]).hexdigest()
    window = content[:size][0x100000:][:0x10000]
    assert legacy_a1111_hash(path) == hashlib.sha256(window).hexdigest()[:8]


def test_addnet_hash_is_of_the_data_only(tmp_path: Path) -> None:
    one = save(tmp_path / "a", {"x": torch.arange(10.0)}, {"k": "v"})
    two = save(tmp_path / "b", {"x": torch.arange(10.0)}, {"k": "another"})
    data = torch.arange(10.0).numpy().tobytes()
    assert addnet_hash(one) == addnet_hash(two) == hashlib.sha256(data).hexdigest()
    (tmp_path / "c").write_bytes(b"\xff" * 20)
    with pytest.raises(BadFileError):
        addnet_hash(tmp_path / "c")


def test_hashing_tells_its_bytes_and_stops_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(20 << 20))
    pieces: list[int] = []
    assert file_sha256(path, pieces.append) == file_sha256(path)
    assert sum(pieces) == 20 << 20
    assert len(pieces) > 2

    def third(count: int) -> None:
        pieces.append(count)
        if len(pieces) == 3:
            raise CancelledError

    pieces.clear()
    with pytest.raises(CancelledError):
        file_sha256(path, third)
    assert len(pieces) == 3


def test_a_stamp_tells_two_states_apart(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = stamp(path)
    assert stamp(path) == first
    os.utime(path, ns=(0, 0))
    assert stamp(path) != first
    with pytest.raises(BadFileError):
        stamp(tmp_path / "none")
